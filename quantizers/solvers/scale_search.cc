#include "quantizers/solvers/scale_search.h"

namespace quantd {

namespace scale_search_baseline {
extern const ScaleSearch kScaleSearch;
}
#if defined(__x86_64__)
namespace scale_search_avx2 {
extern const ScaleSearch kScaleSearch;
}
namespace scale_search_avx512 {
extern const ScaleSearch kScaleSearch;
}
#endif

namespace {

struct Variants {
  const ScaleSearch* list[4] = {};
  int count = 0;
};

const Variants& VariantsOfThisCpu() {
  static const Variants variants = [] {
    Variants v;
    v.list[v.count++] = &scale_search_baseline::kScaleSearch;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) v.list[v.count++] = &scale_search_avx2::kScaleSearch;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      v.list[v.count++] = &scale_search_avx512::kScaleSearch;
    }
#endif
    return v;
  }();
  return variants;
}

}  // namespace

const ScaleSearch& BestScaleSearch() {
  const Variants& variants = VariantsOfThisCpu();
  return *variants.list[variants.count - 1];
}

const ScaleSearch* const* AllScaleSearches() { return VariantsOfThisCpu().list; }

}  // namespace quantd

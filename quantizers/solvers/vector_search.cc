#include "quantizers/solvers/vector_search.h"

namespace quantd {

namespace vector_search_baseline {
extern const VectorSearch kVectorSearch;
}
#if defined(__x86_64__)
namespace vector_search_avx2 {
extern const VectorSearch kVectorSearch;
}
namespace vector_search_avx512 {
extern const VectorSearch kVectorSearch;
}
#endif

namespace {

struct Variants {
  const VectorSearch* list[4] = {};
  int count = 0;
};

const Variants& VariantsOfThisCpu() {
  static const Variants variants = [] {
    Variants v;
    v.list[v.count++] = &vector_search_baseline::kVectorSearch;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
      v.list[v.count++] = &vector_search_avx2::kVectorSearch;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      v.list[v.count++] = &vector_search_avx512::kVectorSearch;
    }
#endif
    return v;
  }();
  return variants;
}

}  // namespace

const VectorSearch& BestVectorSearch() {
  const Variants& variants = VariantsOfThisCpu();
  return *variants.list[variants.count - 1];
}

const VectorSearch* const* AllVectorSearches() { return VariantsOfThisCpu().list; }

}  // namespace quantd

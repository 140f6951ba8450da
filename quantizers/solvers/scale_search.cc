#include "quantizers/solvers/scale_search.h"

#include "core/instruction_set.h"

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

const Variants<ScaleSearch>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<ScaleSearch> variants(&scale_search_baseline::kScaleSearch,
                                              &scale_search_avx2::kScaleSearch,
                                              &scale_search_avx512::kScaleSearch);
#else
  static const Variants<ScaleSearch> variants(&scale_search_baseline::kScaleSearch, nullptr,
                                              nullptr);
#endif
  return variants;
}

}  // namespace

const ScaleSearch& BestScaleSearch() { return VariantsOfThisCpu().best(); }

const ScaleSearch* const* AllScaleSearches() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

#include "quantizers/solvers/vector_search.h"

#include "core/instruction_set.h"

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

const Variants<VectorSearch>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<VectorSearch> variants(&vector_search_baseline::kVectorSearch,
                                               &vector_search_avx2::kVectorSearch,
                                               &vector_search_avx512::kVectorSearch);
#else
  static const Variants<VectorSearch> variants(&vector_search_baseline::kVectorSearch, nullptr,
                                               nullptr);
#endif
  return variants;
}

}  // namespace

const VectorSearch& BestVectorSearch() { return VariantsOfThisCpu().best(); }

const VectorSearch* const* AllVectorSearches() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

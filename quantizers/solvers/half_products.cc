#include "quantizers/solvers/half_products.h"

#include "core/instruction_set.h"

namespace quantd {

namespace half_products_baseline {
extern const HalfProducts kHalfProducts;
}
#if defined(__x86_64__)
namespace half_products_avx2 {
extern const HalfProducts kHalfProducts;
}
namespace half_products_avx512 {
extern const HalfProducts kHalfProducts;
}
#endif

namespace {

const Variants<HalfProducts>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<HalfProducts> variants(&half_products_baseline::kHalfProducts,
                                               &half_products_avx2::kHalfProducts,
                                               &half_products_avx512::kHalfProducts);
#else
  static const Variants<HalfProducts> variants(&half_products_baseline::kHalfProducts, nullptr,
                                               nullptr);
#endif
  return variants;
}

}  // namespace

const HalfProducts& BestHalfProducts() { return VariantsOfThisCpu().best(); }

const HalfProducts* const* AllHalfProducts() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

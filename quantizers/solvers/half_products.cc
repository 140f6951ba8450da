#include "quantizers/solvers/half_products.h"

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

struct Variants {
  const HalfProducts* list[4] = {};
  int count = 0;
};

const Variants& VariantsOfThisCpu() {
  static const Variants variants = [] {
    Variants v;
    v.list[v.count++] = &half_products_baseline::kHalfProducts;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"))
      v.list[v.count++] = &half_products_avx2::kHalfProducts;
    if (__builtin_cpu_supports("avx512f")) v.list[v.count++] = &half_products_avx512::kHalfProducts;
#endif
    return v;
  }();
  return variants;
}

}  // namespace

const HalfProducts& BestHalfProducts() {
  const Variants& variants = VariantsOfThisCpu();
  return *variants.list[variants.count - 1];
}

const HalfProducts* const* AllHalfProducts() { return VariantsOfThisCpu().list; }

}  // namespace quantd

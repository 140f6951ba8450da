#include "kernels/rounded_product_tables.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/matrix_panels.h"

namespace quantd {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileCols = 32;
constexpr int64_t kChain = 32;              // of the inner dimension: part of the result
constexpr int64_t kSlice = 256;             // that is multiplied at a time
constexpr uint32_t kLeastBits = 77u << 23;  // 2^-50
constexpr double kPerSecond = 5e10;

namespace baseline {
constexpr char kIsa[] = "baseline";
#define QUANTD_FMA_LANES 4
#include "kernels/bfloat16_product_tile.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
#define QUANTD_FMA_LANES 8
#include "kernels/bfloat16_product_tile.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
#define QUANTD_FMA_LANES 16
#include "kernels/bfloat16_product_tile.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

}  // namespace

const Variants<RoundedProduct>& BFloat16Products() {
  static const Variants<RoundedProduct> variants = [] {
#if defined(__x86_64__)
    Variants<RoundedProduct> found(&baseline::kProduct, &avx2::kProduct, &avx512::kProduct);
    if (ThisInstructionSet() == InstructionSet::kAvx512) found.Add(AmxBFloat16Product());
    return found;
#else
    return Variants<RoundedProduct>(&baseline::kProduct, nullptr, nullptr);
#endif
  }();
  return variants;
}

}  // namespace quantd

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
constexpr float kLevels = 127;
constexpr double kPerSecond = 5e10;

namespace baseline {
constexpr char kIsa[] = "baseline";
constexpr int kIntLanes = 4;
typedef int32_t IntLanes __attribute__((vector_size(16)));
inline IntLanes AddPairs(const IntLanes& sum, const IntLanes& a, const IntLanes& b) {
#if defined(__SSE2__)
  return sum + reinterpret_cast<IntLanes>(
                   _mm_madd_epi16(reinterpret_cast<__m128i>(a), reinterpret_cast<__m128i>(b)));
#else
  return sum + ((a << 16) >> 16) * ((b << 16) >> 16) + (a >> 16) * (b >> 16);
#endif
}
inline void ToFloats(const IntLanes& lanes, float* to) {
  for (int i = 0; i < kIntLanes; ++i) to[i] = static_cast<float>(lanes[i]);
}
#include "kernels/int8_product_tile.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
constexpr int kIntLanes = 8;
typedef int32_t IntLanes __attribute__((vector_size(32)));
inline __attribute__((always_inline)) IntLanes AddPairs(IntLanes sum, IntLanes a, IntLanes b) {
  return sum + reinterpret_cast<IntLanes>(
                   _mm256_madd_epi16(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
inline __attribute__((always_inline)) void ToFloats(IntLanes lanes, float* to) {
  _mm256_storeu_ps(to, _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(lanes)));
}
#include "kernels/int8_product_tile.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"
#endif

}  // namespace

const Variants<RoundedProduct>& Int8Products() {
  static const Variants<RoundedProduct> variants = [] {
#if defined(__x86_64__)
    Variants<RoundedProduct> found(&baseline::kProduct, &avx2::kProduct, VnniInt8Product());
    if (ThisInstructionSet() == InstructionSet::kAvx512) found.Add(AmxInt8Product());
    return found;
#else
    return Variants<RoundedProduct>(&baseline::kProduct, nullptr, nullptr);
#endif
  }();
  return variants;
}

}  // namespace quantd

// The body of half_products.h, compiled once per instruction set by a translation unit that defines
// QUANTD_HALF_PRODUCTS_ISA. Nothing here may be shared between those units: everything is in their
// own namespace, and no library header with inline functions is included.
#ifndef QUANTD_HALF_PRODUCTS_ISA
#error "define QUANTD_HALF_PRODUCTS_ISA first"
#endif

#include <cstdint>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "quantizers/solvers/half_products.h"

#define QUANTD_STRING_INNER(text) #text
#define QUANTD_STRING(text) QUANTD_STRING_INNER(text)

namespace quantd {
namespace QUANTD_HALF_PRODUCTS_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
constexpr int kSums = 16;
constexpr int kVectors = kSums / kLanes;

// InFloat16::Round (rounding.h).
#if defined(__AVX512F__)
inline Floats Half(Floats value) {
  const __m256i half = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_cvtph_ps(half);
}
#elif defined(__F16C__)
inline Floats Half(Floats value) {
  return _mm256_cvtph_ps(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#else
inline Floats Half(Floats value) {
  const Ints bits = reinterpret_cast<Ints>(value);
  const Ints magnitude = bits & 0x7fffffff;
  const Ints kept = (magnitude + 0xfff + ((magnitude >> 13) & 1)) & ~0x1fff;
  const Ints infinity = 0x7f800000 - Ints{};
  const Ints large = magnitude > infinity ? magnitude : infinity;
  const Ints normal = kept >= 0x47800000 - Ints{} ? large : kept;
  const Ints subnormal =
      reinterpret_cast<Ints>((reinterpret_cast<Floats>(magnitude) + 0.5f) - 0.5f);
  const Ints rounded = magnitude < 0x38800000 - Ints{} ? subnormal : normal;
  return reinterpret_cast<Floats>(rounded | (bits & ~0x7fffffff));
}
#endif

inline void AddProducts(const float* x, const float* w, Floats* sums) {
  for (int v = 0; v < kVectors; ++v) {
    Floats a, b;
    __builtin_memcpy(&a, x + v * kLanes, sizeof(a));
    __builtin_memcpy(&b, w + v * kLanes, sizeof(b));
    sums[v] += Half(a * b);
  }
}

inline float Total(const Floats* sums) {
  alignas(64) float lanes[kSums];
  __builtin_memcpy(lanes, sums, sizeof(lanes));
  for (int width = kSums / 2; width > 0; width /= 2) {
    for (int k = 0; k < width; ++k) lanes[k] += lanes[k + width];
  }
  return Half(lanes[0] - Floats{})[0];
}

void Sums(const float* x, int64_t stride, int64_t rows, const float* w, int64_t count,
          float* sums) {
  const int64_t whole = count / kSums * kSums;
  float padded_w[kSums] = {};
  for (int64_t i = whole; i < count; ++i) padded_w[i - whole] = w[i];
  for (int64_t t = 0; t < rows; ++t) {
    const float* row = x + t * stride;
    Floats parts[kVectors] = {};
    for (int64_t i = 0; i < whole; i += kSums) AddProducts(row + i, w + i, parts);
    if (whole < count) {
      float padded[kSums] = {};
      for (int64_t i = whole; i < count; ++i) padded[i - whole] = row[i];
      AddProducts(padded, padded_w, parts);
    }
    sums[t] = Total(parts);
  }
}

}  // namespace

extern const HalfProducts kHalfProducts;
const HalfProducts kHalfProducts = {QUANTD_STRING(QUANTD_HALF_PRODUCTS_ISA), Sums};

}  // namespace QUANTD_HALF_PRODUCTS_ISA
}  // namespace quantd

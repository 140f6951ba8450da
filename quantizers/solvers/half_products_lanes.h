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

typedef float Eight __attribute__((vector_size(32)));
typedef float Four __attribute__((vector_size(16)));

// The sixteen sums added up, lane k to lane k + 8, then k + 4, k + 2, k + 1.
inline float Total(const Floats* sums) {
  Four four;
#if defined(__AVX512F__)
  const Eight eight = __builtin_shufflevector(sums[0], sums[0], 0, 1, 2, 3, 4, 5, 6, 7) +
                      __builtin_shufflevector(sums[0], sums[0], 8, 9, 10, 11, 12, 13, 14, 15);
  four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
         __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#elif defined(__AVX2__)
  const Eight eight = sums[0] + sums[1];
  four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
         __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#else
  four = (sums[0] + sums[2]) + (sums[1] + sums[3]);
#endif
  four += __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return four[0] + four[1];
}

// values = change(values, others), a register at a time; what is past the end is 1.
template <class Change>
inline void ForLanes(int64_t count, const float* others, float* values, const Change& change) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats value = 1 - Floats{}, other = value;
    const int64_t left = count - i < kLanes ? count - i : kLanes;
    const auto bytes = static_cast<uint64_t>(left) * sizeof(float);
    if (left == kLanes) {
      __builtin_memcpy(&value, values + i, sizeof(value));
      if (others != nullptr) __builtin_memcpy(&other, others + i, sizeof(other));
    } else {
      __builtin_memcpy(&value, values + i, bytes);
      if (others != nullptr) __builtin_memcpy(&other, others + i, bytes);
    }
    value = change(value, other);
    if (left == kLanes) {
      __builtin_memcpy(values + i, &value, sizeof(value));
    } else {
      __builtin_memcpy(values + i, &value, bytes);
    }
  }
}

inline Floats Clamp(Floats value, float least, float most) {
  const Floats low = least - Floats{}, high = most - Floats{};
  const Floats raised = value < low ? low : value;
  return high < raised ? high : raised;
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
  ForLanes(rows, nullptr, sums, [](Floats sum, Floats) { return Half(sum); });
}

void Multiply(const float* factors, int64_t count, float* values) {
  ForLanes(count, factors, values, [](Floats v, Floats factor) { return Half(v * factor); });
}

void Divide(const float* factors, int64_t count, float* values) {
  ForLanes(count, factors, values, [](Floats v, Floats factor) { return Half(v / factor); });
}

void Round(const HalfGrid& grid, int64_t count, float* values) {
  constexpr float kFar = 0x1p20f;      // beyond every code, within what the shift rounds
  constexpr float kShift = 0x1.8p23f;  // RoundHalfEven (rounding.h)
  ForLanes(count, nullptr, values, [&grid](Floats v, Floats) {
    const Floats step = Clamp(Half(v / grid.scale), -kFar, kFar);
    const Floats code = Clamp((step + kShift) - kShift + grid.zero, grid.least, grid.most);
    return Half((code - grid.zero) * grid.scale);
  });
}

}  // namespace

extern const HalfProducts kHalfProducts;
const HalfProducts kHalfProducts = {QUANTD_STRING(QUANTD_HALF_PRODUCTS_ISA), Sums, Multiply, Divide,
                                    Round};

}  // namespace QUANTD_HALF_PRODUCTS_ISA
}  // namespace quantd

// Conversions between float and the narrow floating point formats of checkpoints. All roundings are
// to nearest, ties to even, exactly as torch and IEEE 754 do them, on every machine.
#ifndef QUANTD_CORE_FLOAT_TYPES_H_
#define QUANTD_CORE_FLOAT_TYPES_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "core/dtype.h"
#include "core/tensor.h"

namespace quantd {

inline float FloatFromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// NaN becomes a quiet NaN of the same sign.
inline uint16_t Bf16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float FloatFromF16(uint16_t bits);
uint16_t F16FromFloat(float value);  // overflow gives infinity

float FloatFromE4M3(uint8_t bits);
// Values beyond 448 become NaN as in torch's cast; clamp first for a saturating conversion.
uint8_t E4M3FromFloat(float value);
float FloatFromE5M2(uint8_t bits);
uint8_t E5M2FromFloat(float value);
// Values beyond 240 become NaN, minus zero becomes zero.
float FloatFromE4M3FNUZ(uint8_t bits);
uint8_t E4M3FNUZFromFloat(float value);
// 2^(bits-127); 255 is NaN.
float FloatFromE8M0(uint8_t bits);

// `value` rounded to the precision of `dtype` (a floating point one) and widened again.
float RoundTo(DType dtype, float value);

void RoundAllTo(DType dtype, float* values, int64_t count);

// Element `index` of `view` as float. Integers are converted.
float LoadFloat(const TensorView& view, int64_t index);

// Widens `count` elements starting at element `first` into `out`. View elements may be unaligned.
void LoadFloats(const TensorView& view, int64_t first, int64_t count, float* out);

// Narrows `count` floats into `out`, which holds elements of `dtype` (a floating point one).
void StoreFloats(DType dtype, const float* values, int64_t count, std::byte* out);

}  // namespace quantd

#endif  // QUANTD_CORE_FLOAT_TYPES_H_

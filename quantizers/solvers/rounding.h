// Roundings as branch-free arithmetic that compilers vectorize for any ISA.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ROUNDING_H_
#define QUANTD_QUANTIZERS_SOLVERS_ROUNDING_H_

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/float_types.h"

namespace quantd {

// Nearest integer, ties to even, for |value| < 2^22: the sum drops the fraction bits.
inline float RoundHalfEven(float value) {
  constexpr float kShift = 0x1.8p23f;
  return (value + kShift) - kShift;
}

// Arithmetic in a dtype as torch does it on CPUs: float32, then rounded. One type per dtype, so
// that loops are compiled for each.
struct InFloat32 {
  static constexpr DType kDType = DType::kF32;
  static constexpr int kMantissaBits = 23;
  static constexpr float kMax = 0x1.fffffep127f;
  static constexpr float kTiny = 0x1p-126f;  // the least normal number
  static float Round(float value) { return value; }
};
struct InBFloat16 {
  static constexpr DType kDType = DType::kBF16;
  static constexpr int kMantissaBits = 7;
  static constexpr float kMax = 0x1.fep127f;
  static constexpr float kTiny = 0x1p-126f;
  static float Round(float value) {
    // NaN is not rounded correctly here; no caller has one.
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
  }
};
struct InFloat16 {
  static constexpr DType kDType = DType::kF16;
  static constexpr int kMantissaBits = 10;
  static constexpr float kMax = 65504.0f;
  static constexpr float kTiny = 0x1p-14f;
  static float Round(float value) {
    // Drops 13 mantissa bits; below 2^-14, steps of 2^-24, which is the ulp of 0.5. What has no
    // place below 2^16 is infinite.
    const uint32_t bits = std::bit_cast<uint32_t>(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t kept = (magnitude + 0xfffu + ((magnitude >> 13) & 1u)) & 0xffffe000u;
    const uint32_t large = magnitude > 0x7f800000u ? magnitude : 0x7f800000u;  // NaN or infinity
    const uint32_t normal = kept >= 0x47800000u ? large : kept;
    const uint32_t subnormal =
        std::bit_cast<uint32_t>((std::bit_cast<float>(magnitude) + 0.5f) - 0.5f);
    return std::bit_cast<float>((bits & 0x80000000u) |
                                (magnitude < 0x38800000u ? subnormal : normal));
  }
};

// Calls `body` with the arithmetic of `dtype`: InFloat16, InBFloat16 or, for all others, InFloat32.
template <class Body>
auto WithArithmetic(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kF16:
      return body(InFloat16{});
    case DType::kBF16:
      return body(InBFloat16{});
    default:
      return body(InFloat32{});
  }
}

// float8_e4m3fn of a value within [-448, 448], ties to even.
inline uint8_t E4M3FromClamped(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal (from 2^-6): drop 20 mantissa bits and rebias. Subnormal: steps of 2^-9, which is the
  // ulp of 2^14.
  const uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 16384.0f) - 0x46800000u;
  return static_cast<uint8_t>(sign | (magnitude >= 0x3c800000u ? normal : subnormal));
}

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ROUNDING_H_

// The small floating point formats of the OCP Microscaling specification 1.0 and of torch as code
// tables, and their conversions: ties to the even code, values beyond the largest saturated by the
// caller.
#ifndef QUANTD_QUANTIZERS_GRIDS_SMALL_FLOATS_H_
#define QUANTD_QUANTIZERS_GRIDS_SMALL_FLOATS_H_

#include <bit>
#include <cstdint>

#include "core/quantized_tensor.h"

namespace quantd {

inline constexpr float kE2M1Max = 6.0f;
inline constexpr float kE2M3Max = 7.5f;
inline constexpr float kE4M3Max = 448.0f;
inline constexpr float kE5M2Max = 57344.0f;
inline constexpr float kE3M2Max = 28.0f;
inline constexpr float kE4M3FNUZMax = 240.0f;

// code = sign << 3 | magnitude: {0, 0.5, 1, 1.5, 2, 3, 4, 6}.
Grid E2M1Grid();
// The float8 formats of torch besides E4M3, in code order. Infinities and NaN are 0: no weight has
// such a code, and tables hold numbers.
Grid E5M2Grid();
Grid E4M3FNUZGrid();
// code = sign << 5 | magnitude: eighths below 1, then (1 + m/8) * 2^e for e = 0, 1, 2.
Grid E2M3Grid();
// code = sign << 5 | magnitude: sixteenths below 1/4, then (1 + m/4) * 2^e for e = -2 to 4.
Grid E3M2Grid();

// Magnitude bits of a float of `MantissaBits` whose smallest normal is 1: drops mantissa bits of
// normals, and lets an addition round subnormals to their step.
template <int MantissaBits>
inline uint32_t MagnitudeFromClamped(float value) {
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7fffffffu;
  constexpr int kDrop = 23 - MantissaBits;
  constexpr uint32_t kHalf = (1u << (kDrop - 1)) - 1u;
  const uint32_t normal =
      ((magnitude + kHalf + ((magnitude >> kDrop) & 1u)) >> kDrop) - (126u << MantissaBits);
  // The ulp of 2^(23 - MantissaBits) is the subnormal step 2^-MantissaBits.
  constexpr float kShift = static_cast<float>(1 << kDrop);
  const uint32_t subnormal = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + kShift) -
                             std::bit_cast<uint32_t>(kShift);
  return magnitude >= 0x3f800000u ? normal : subnormal;
}

// A negative value that rounds to zero keeps its sign bit; minus zero itself does not (upstream
// multiplies the rounded magnitude by sign(value)).
inline uint8_t E2M1FromClamped(float value) {
  return static_cast<uint8_t>(MagnitudeFromClamped<1>(value) | (value < 0 ? 8u : 0u));
}
inline uint8_t E2M3FromClamped(float value) {
  return static_cast<uint8_t>(MagnitudeFromClamped<3>(value) | (value < 0 ? 32u : 0u));
}

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_GRIDS_SMALL_FLOATS_H_

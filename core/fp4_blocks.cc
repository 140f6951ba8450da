#include "core/fp4_blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/float_types.h"

namespace quantd {
namespace {

using Scale = Fp4Blocks::Scale;

constexpr float kLargest = 6;  // of E2M1
constexpr float kE4M3Max = 448;
// Six times as much is still a float32.
constexpr float kMostPower = 0x1p125f;
// 1 / 6 of the clipping that has the least error for normal values (QuEST, arXiv 2502.05003).
constexpr float kDeviations = 2.92247856f / 6.0f;
constexpr float kLeast = 1e-8f;

float PowerAtOrBelow(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value) & 0x7f800000u;
  return std::min(std::bit_cast<float>(bits), kMostPower);
}

float MaxOf(const float* values, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(values[i]));
  return largest;
}

// A variance that rounding has made negative (a block of one value) gives the scale 1, as in
// QuTLASS; the Triton kernel makes NaN of it.
float ScaleOfDeviation(const float* values, int64_t count) {
  float sum = 0, squares = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += values[i];
    squares += values[i] * values[i];
  }
  const float mean = sum / static_cast<float>(count);
  const float variance = squares / static_cast<float>(count) - mean * mean;
  if (!(variance >= 0)) return 1;
  return PowerAtOrBelow(std::sqrt(variance) * kDeviations + kLeast);
}

float ScaleOf(const Fp4Blocks& blocks, const float* values, int64_t count) {
  if (blocks.scale == Scale::kPowerOfDeviation) return ScaleOfDeviation(values, count);
  const float largest = MaxOf(values, count);
  if (blocks.scale == Scale::kPowerOfMax) {
    return PowerAtOrBelow(blocks.half_to_even ? largest + kLeast : largest);
  }
  const float exact = blocks.half_to_even ? blocks.global_scale * (largest * (1.0f / kLargest))
                                          : blocks.global_scale * largest / kLargest;
  return FloatFromE4M3(E4M3FromFloat(std::min(exact, kE4M3Max)));
}

// What a value is multiplied with, or what it is divided by, to be rounded; each in upstream's
// order.
class Scaler {
 public:
  Scaler(const Fp4Blocks& blocks, float scale) : blocks_(blocks), scale_(scale) {
    if (blocks.scale == Scale::kPowerOfMax) third_ = scale / 3.0f;
    if (scale != 0) factor_ = 1.0f / (scale * (1.0f / blocks.global_scale));
  }
  float operator()(float x) const {
    if (blocks_.scale == Scale::kPowerOfDeviation) return x / scale_;
    if (blocks_.scale == Scale::kPowerOfMax) {
      return blocks_.half_to_even ? x / scale_ * 3 : x / third_;
    }
    return blocks_.half_to_even ? x * factor_ : x * blocks_.global_scale / scale_;
  }

 private:
  const Fp4Blocks& blocks_;
  const float scale_;
  float third_ = 0;
  float factor_ = 0;
};

// Half of the midpoints between neighbours belong to the even one above.
uint8_t EvenMagnitude(float x) {
  return static_cast<uint8_t>((x > 0.25f) + (x >= 0.75f) + (x > 1.25f) + (x >= 1.75f) + (x > 2.5f) +
                              (x >= 3.5f) + (x > 5.0f));
}
// NaN, which zeros under a scale of 0 are, is 0.
uint8_t LowerMagnitude(float x) {
  return static_cast<uint8_t>((x > 0.25f) + (x > 0.75f) + (x > 1.25f) + (x > 1.75f) + (x > 2.5f) +
                              (x > 3.5f) + (x > 5.0f));
}

}  // namespace

float FloatFromE2M1(uint8_t code) {
  constexpr float kValues[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float value = kValues[code & 7];
  return (code & 8) != 0 ? -value : value;
}

float EncodeFp4Block(const Fp4Blocks& blocks, const float* values, int64_t count, uint8_t* codes) {
  const float scale = ScaleOf(blocks, values, count);
  const Scaler scaled(blocks, scale);
  for (int64_t i = 0; i < count; ++i) {
    const float x = scaled(values[i]);
    const uint32_t magnitude =
        blocks.half_to_even ? EvenMagnitude(std::abs(x)) : LowerMagnitude(std::abs(x));
    const bool negative = blocks.half_to_even ? std::signbit(x) : !(x > 0);
    codes[i] = static_cast<uint8_t>(magnitude | (negative ? 8u : 0u));
  }
  return scale;
}

}  // namespace quantd

#include "core/input_rounding.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

using Values = InputRounding::Values;

// `value` is inside the format's range. Half to even, as the steps' last digit is the mantissa's.
float RoundToSmallFloat(float value, const SmallFloat& format) {
  const uint32_t exponent = (std::bit_cast<uint32_t>(value) >> 23) & 0xffu;
  const int power = std::max(static_cast<int>(exponent) - 127, format.least_exponent);
  const float step =
      std::bit_cast<float>(static_cast<uint32_t>(power - format.mantissa_bits + 127) << 23);
  return std::nearbyintf(value / step) * step;
}

struct Scale {
  float scale = 1;
  float zero_point = 0;
};

// What rounds every input alike.
class Rounder {
 public:
  explicit Rounder(const InputRounding& rounding)
      : rounding_(rounding),
        format_(rounding.values == Values::kInteger ? SmallFloat{} : SmallFloatOf(rounding.values)),
        low_(LowOf(rounding)),
        high_(HighOf(rounding)) {}

  float operator()(float x, const Scale& by) const {
    if (rounding_.values != Values::kInteger) {
      return RoundToSmallFloat(std::clamp(x / by.scale, low_, high_), format_) * by.scale;
    }
    const float code =
        rounding_.by_reciprocal
            ? std::clamp(std::nearbyintf(x * (1.0f / by.scale)) + by.zero_point, low_, high_)
            : std::nearbyintf(std::clamp(x / by.scale + by.zero_point, low_, high_));
    return (code - by.zero_point) * by.scale;
  }

  Scale Of(const float* x, int64_t count) const {
    float least = 0, greatest = 0;
    for (int64_t i = 0; i < count; ++i) {
      least = std::min(least, x[i]);
      greatest = std::max(greatest, x[i]);
    }
    constexpr float kEpsilon = std::numeric_limits<float>::epsilon();
    if (!rounding_.symmetric) {
      const float scale = (greatest - least) / (high_ - low_);
      if (scale == 0) return {kEpsilon, 0};
      return {scale, std::nearbyintf(std::clamp(low_ - least / scale, low_, high_))};
    }
    float largest = std::max(-least, greatest);
    if (rounding_.upper_bound > 0) largest = std::min(largest, rounding_.upper_bound);
    const float scale = std::max(largest / ((high_ - low_) / 2), rounding_.least_scale);
    if (rounding_.global_scale == 0) return {scale == 0 ? kEpsilon : scale, 0};
    const SmallFloat e4m3 = SmallFloatOf(Values::kE4M3);
    const float stored =
        RoundToSmallFloat(std::min(scale * rounding_.global_scale, e4m3.largest), e4m3);
    return {(stored == 0 ? 0.125f : stored) / rounding_.global_scale, 0};
  }

 private:
  const InputRounding& rounding_;
  const SmallFloat format_;
  const float low_, high_;
};

void RoundToFp4(const Fp4Blocks& blocks, const float* from, int64_t cols, float* to) {
  std::array<uint8_t, 32> codes;
  for (int64_t first = 0; first < cols; first += blocks.size()) {
    const int64_t count = std::min(blocks.size(), cols - first);
    const float scale = EncodeFp4Block(blocks, from + first, count, codes.data());
    for (int64_t i = 0; i < count; ++i) {
      to[first + i] = FloatFromE2M1(codes[i]) * scale / blocks.global_scale;
    }
  }
}

}  // namespace

SmallFloat SmallFloatOf(Values values) {
  if (values == Values::kE2M1) return {.mantissa_bits = 1, .least_exponent = 0, .largest = 6};
  if (values == Values::kE5M2) return {.mantissa_bits = 2, .least_exponent = -14, .largest = 57344};
  return {.mantissa_bits = 3, .least_exponent = -6, .largest = 448};
}

float LowOf(const InputRounding& rounding) {
  if (rounding.values != Values::kInteger) return -SmallFloatOf(rounding.values).largest;
  return rounding.is_signed ? -static_cast<float>(1 << (rounding.bits - 1)) : 0.0f;
}

float HighOf(const InputRounding& rounding) {
  if (rounding.values != Values::kInteger) return SmallFloatOf(rounding.values).largest;
  return LowOf(rounding) + static_cast<float>((1 << rounding.bits) - 1);
}

std::string Describe(const InputRounding& rounding) {
  std::string text = rounding.values == Values::kInteger
                         ? absl::StrCat(rounding.is_signed ? "int" : "uint", rounding.bits)
                     : rounding.values == Values::kE2M1 ? "fp4"
                     : rounding.values == Values::kE5M2 ? "fp8 (E5M2)"
                                                        : "fp8";
  return absl::StrCat(text, rounding.fp4.any()  ? absl::StrCat(", groups of ", rounding.fp4.size())
                            : !rounding.dynamic ? ", one scale"
                            : rounding.group == 0 ? ", a scale for every token"
                                                  : absl::StrCat(", groups of ", rounding.group));
}

absl::Status Validate(const InputRounding& rounding) {
  const auto is_positive = [](float value) { return std::isfinite(value) && value > 0; };
  if (!rounding.any()) return absl::OkStatus();
  if (rounding.values == Values::kInteger && (rounding.bits < 1 || rounding.bits > 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("inputs of ", rounding.bits, " bits, expected 1 to 8"));
  }
  if (rounding.fp4.any()) {
    if (rounding.dynamic && rounding.values == Values::kE2M1 &&
        is_positive(rounding.fp4.global_scale)) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(
        absl::StrCat("fp4 inputs under the scale ", rounding.fp4.global_scale));
  }
  if (rounding.dynamic) {
    const bool bounded = rounding.upper_bound >= 0 && rounding.least_scale >= 0;
    const bool scaled = rounding.global_scale == 0 || is_positive(rounding.global_scale);
    if (rounding.group >= 0 && bounded && scaled) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("groups of ", rounding.group, " inputs under ", rounding.global_scale));
  }
  const bool inside =
      rounding.zero_point >= LowOf(rounding) && rounding.zero_point <= HighOf(rounding);
  if (is_positive(rounding.scale) && inside) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("inputs with the scale ", rounding.scale,
                                                 " and the zero point ", rounding.zero_point));
}

void RoundInputs(const InputRounding& rounding, const float* from, int64_t cols, float* to) {
  if (!rounding.any()) {
    std::copy_n(from, from == to ? 0 : cols, to);
    return;
  }
  if (rounding.fp4.any()) return RoundToFp4(rounding.fp4, from, cols, to);
  const Rounder round(rounding);
  const int64_t group = rounding.dynamic && rounding.group > 0 ? rounding.group : cols;
  for (int64_t first = 0; first < cols; first += group) {
    const int64_t count = std::min(group, cols - first);
    const Scale by = rounding.dynamic ? round.Of(from + first, count)
                                      : Scale{rounding.scale, rounding.zero_point};
    for (int64_t c = first; c < first + count; ++c) to[c] = round(from[c], by);
  }
}

}  // namespace quantd

// How AWQ rounds one group of weights, which its searches and its quantizer share.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_ROUNDING_H_
#define QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_ROUNDING_H_

#include <algorithm>
#include <cstdint>
#include <span>

#include "core/status.h"
#include "quantizers/solvers/activation_aware.h"
#include "quantizers/solvers/half_products.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {

struct WeightRange {
  float smallest, largest;
};
// Of `count` weights, at least one.
inline WeightRange RangeOf(const float* values, int64_t count) {
  constexpr int kLanes = 8;
  float smallest[kLanes], largest[kLanes];
  for (int k = 0; k < kLanes; ++k) smallest[k] = largest[k] = values[0];
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) {
      smallest[k] = std::min(smallest[k], values[i + k]);
      largest[k] = std::max(largest[k], values[i + k]);
    }
  }
  for (; i < count; ++i) {
    smallest[0] = std::min(smallest[0], values[i]);
    largest[0] = std::max(largest[0], values[i]);
  }
  return {*std::min_element(smallest, smallest + kLanes),
          *std::max_element(largest, largest + kLanes)};
}

// Scale and zero point of a group, and its codes as floats around 0. All arithmetic is float16's.
struct AwqRounding : HalfGrid {
  AwqRounding(float smallest, float largest, const AwqSpec& spec) {
    const float least_range = Half(1e-5f);
    if (spec.zero_point) {
      most = static_cast<float>((1 << spec.bits) - 1);
      scale = Half(std::max(Half(largest - smallest), least_range) / most);
      zero = std::clamp(-Step(smallest), least, most);
    } else {
      most = static_cast<float>((1 << (spec.bits - 1)) - 1);
      least = -most - 1;
      scale = Half(std::max(std::max(largest, -smallest), least_range) / most);
    }
  }
  AwqRounding(const WeightRange& range, const AwqSpec& spec)
      : AwqRounding(range.smallest, range.largest, spec) {}

  // From `least` to `most`.
  float Code(float value) const { return std::clamp(Step(value) + zero, least, most); }

 private:
  static float Half(float value) { return InFloat16::Round(value); }
  float Step(float value) const {
    constexpr float kFar = 0x1p20f;  // beyond every code, within what RoundHalfEven takes
    return RoundHalfEven(std::clamp(Half(value / scale), -kFar, kFar));
  }
};

// INVALID_ARGUMENT unless `samples` are tokens of `cols` values.
absl::Status CheckAwqSamples(std::span<const float> samples, int64_t cols);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_ROUNDING_H_

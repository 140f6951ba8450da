#include "quantizers/solvers/sign_round_tuner.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr float kLeastScale = 1e-5f;
constexpr float kFar = 0x1p20f;  // beyond every code, within what RoundHalfEven takes

float SignOf(float value) { return value > 0 ? 1.0f : value < 0 ? -1.0f : 0.0f; }

// A weight's place between the codes.
struct Steps {
  float code;  // after the clamp, from `least` of the spec
  float free;  // 1 where the clamp did nothing, else 0
};

struct Codes {
  float least;
  float most;
};

Codes CodesOf(const SignRoundSpec& spec) {
  const float half = static_cast<float>(1 << (spec.bits - 1));
  return spec.sym ? Codes{-half, half - 1} : Codes{0, 2 * half - 1};
}

Steps StepsOf(float value, float rounding, float scale, float zero, Codes codes) {
  const float near = std::clamp(value / scale + rounding, -kFar, kFar);
  const float free = RoundHalfEven(near) + zero;
  const float code = std::clamp(free, codes.least, codes.most);
  return {code, code == free ? 1.0f : 0.0f};
}

}  // namespace

SignRoundTuner::SignRoundTuner(Tensor weight, const SignRoundSpec& spec)
    : weight_(std::move(weight)),
      spec_(spec),
      rows_(weight_.shape[0]),
      cols_(weight_.shape[1]),
      group_size_(spec.group_size <= 0 ? cols_ : std::min(spec.group_size, cols_)),
      groups_((cols_ + group_size_ - 1) / group_size_),
      values_(static_cast<size_t>(rows_ * cols_)),
      rounding_(values_.size()),
      min_scale_(static_cast<size_t>(rows_ * groups_), 1.0f),
      max_scale_(min_scale_) {
  LoadFloats(weight_, 0, rows_ * cols_, values_.data());
  const BlockLayout layout = {rows_, cols_, {.rows = 1, .cols = group_size_}};
  for (const Range& range : BlockRanges(weight_, layout)) {
    least_.push_back(range.min);
    most_.push_back(range.max);
  }
}

// In symmetric groups codes are around 0 and the zero point is that of the middle, left out here.
SignRoundTuner::Group SignRoundTuner::GroupAt(int64_t index) const {
  const float negative = -(least_[index] * min_scale_[index]);
  const float positive = most_[index] * max_scale_[index];
  if (spec_.sym) {
    const float sign = positive < negative ? 1.0f : -1.0f;
    const float levels = static_cast<float>(1 << (spec_.bits - 1));
    const float scale = InFloat16::Round(sign * std::max(negative, positive) / levels);
    const float bounded = scale < 0 ? std::min(scale, -kLeastScale) : std::max(scale, kLeastScale);
    return {bounded, 0, sign, bounded != scale};
  }
  const float levels = static_cast<float>((1 << spec_.bits) - 1);
  const float scale = InFloat16::Round((positive + negative) / levels);
  const float bounded = std::max(scale, kLeastScale);
  return {bounded, RoundHalfEven(negative / bounded), 1.0f, bounded != scale};
}

void SignRoundTuner::Round(std::span<float> out) const {
  const Codes codes = CodesOf(spec_);
  ParallelFor(rows_, [&](int64_t row) {
    for (int64_t g = 0; g < groups_; ++g) {
      const Group group = GroupAt(row * groups_ + g);
      const int64_t end = row * cols_ + std::min(cols_, (g + 1) * group_size_);
      for (int64_t i = row * cols_ + g * group_size_; i < end; ++i) {
        const Steps steps = StepsOf(values_[i], rounding_[i], group.scale, group.zero, codes);
        out[i] = group.scale * (steps.code - group.zero);
      }
    }
  });
}

SignRoundTuner::RangeGradient SignRoundTuner::GradientOf(int64_t index, const Group& group,
                                                         double by_scale, double by_zero) const {
  const float least = least_[index];
  const float most = most_[index];
  if (spec_.sym) {
    if (group.is_bounded) return {};
    const double levels = static_cast<double>(1 << (spec_.bits - 1));
    const float negative = -(least * min_scale_[index]);
    const float positive = most * max_scale_[index];
    // The maximum of two equal sides passes half to each.
    const double to_negative = negative > positive ? 1 : negative == positive ? 0.5 : 0;
    const double by_side = by_scale * group.sign / levels;
    return {static_cast<float>(by_side * to_negative * -least),
            static_cast<float>(by_side * (1 - to_negative) * most)};
  }
  // zero = round(-least * min_scale / scale), rounding passed through.
  const double scale = group.scale;
  double total = by_scale + by_zero * least * min_scale_[index] / (scale * scale);
  if (group.is_bounded) total = 0;
  const double levels = static_cast<double>((1 << spec_.bits) - 1);
  return {static_cast<float>(total * -least / levels + by_zero * -least / scale),
          static_cast<float>(total * most / levels)};
}

void SignRoundTuner::StepGroup(int64_t index, const float* gradient, float rate, float range_rate) {
  const Codes codes = CodesOf(spec_);
  const Group group = GroupAt(index);
  const int64_t row = index / groups_;
  const int64_t begin = index % groups_ * group_size_;
  const int64_t end = row * cols_ + std::min(cols_, begin + group_size_);
  double by_scale = 0;
  double by_zero = 0;
  for (int64_t i = row * cols_ + begin; i < end; ++i) {
    const Steps steps = StepsOf(values_[i], rounding_[i], group.scale, group.zero, codes);
    const double by_weight = gradient[i];
    by_scale += by_weight * (steps.code - group.zero - steps.free * (values_[i] / group.scale));
    by_zero += by_weight * group.scale * (steps.free - 1);
    rounding_[i] -= rate * SignOf(gradient[i] * group.scale * steps.free);
  }
  if (range_rate <= 0) return;
  const RangeGradient by_range = GradientOf(index, group, by_scale, by_zero);
  min_scale_[index] = std::clamp(min_scale_[index] - range_rate * SignOf(by_range.min), 0.0f, 1.0f);
  max_scale_[index] = std::clamp(max_scale_[index] - range_rate * SignOf(by_range.max), 0.0f, 1.0f);
}

void SignRoundTuner::Step(std::span<const float> gradient, float rate, float range_rate) {
  ParallelFor(rows_, [&](int64_t row) {
    for (int64_t g = 0; g < groups_; ++g) {
      StepGroup(row * groups_ + g, gradient.data(), rate, range_rate);
    }
  });
}

void SignRoundTuner::Keep() {
  best_rounding_ = rounding_;
  best_min_scale_ = min_scale_;
  best_max_scale_ = max_scale_;
}

absl::StatusOr<QuantizedTensor> SignRoundTuner::Best() const {
  if (best_rounding_.empty()) return QuantizeSignRound(weight_, spec_, nullptr);
  const SignRoundTuning tuning = {best_rounding_, best_min_scale_, best_max_scale_};
  return QuantizeSignRound(weight_, spec_, &tuning);
}

}  // namespace quantd

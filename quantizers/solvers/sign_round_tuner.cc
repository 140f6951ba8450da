#include "quantizers/solvers/sign_round_tuner.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/sign_round_loops.h"

namespace quantd {
namespace {

constexpr float kLeastScale = 1e-5f;

float SignOf(float value) { return value > 0 ? 1.0f : value < 0 ? -1.0f : 0.0f; }

GroupRounding RoundingOf(const SignRoundSpec& spec, float scale, float zero) {
  const float half = static_cast<float>(1 << (spec.bits - 1));
  return spec.sym ? GroupRounding{scale, zero, -half, half - 1}
                  : GroupRounding{scale, zero, 0, 2 * half - 1};
}

}  // namespace

SignRoundTuner::SignRoundTuner(std::span<const float> weight, int64_t rows, int64_t cols,
                               const SignRoundSpec& spec)
    : spec_(spec),
      rows_(rows),
      cols_(cols),
      group_size_(spec.group_size <= 0 ? cols_ : std::min(spec.group_size, cols_)),
      groups_((cols_ + group_size_ - 1) / group_size_),
      values_(weight.begin(), weight.end()),
      rounding_(values_.size(), 0.0f),
      min_scale_(static_cast<size_t>(rows_ * groups_), 1.0f),
      max_scale_(min_scale_) {
  const BlockLayout layout = {rows_, cols_, {.rows = 1, .cols = group_size_}};
  for (const Range& range : BlockRanges(Weight(), layout)) {
    least_.push_back(range.min);
    most_.push_back(range.max);
  }
}

TensorView SignRoundTuner::Weight() const {
  return {DType::kF32, {rows_, cols_}, std::as_bytes(std::span(values_))};
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

void SignRoundTuner::RoundGroup(int64_t index, std::span<float> out) const {
  const Group group = GroupAt(index);
  const int64_t begin = BeginOf(index);
  BestSignRoundLoops().round(RoundingOf(spec_, group.scale, group.zero), values_.data() + begin,
                             rounding_.data() + begin, SizeOf(index), out.data() + begin);
}

void SignRoundTuner::Round(std::span<float> out) const {
  ParallelFor(rows_, [&](int64_t row) {
    for (int64_t g = 0; g < groups_; ++g) RoundGroup(row * groups_ + g, out);
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

void SignRoundTuner::StepGroup(int64_t index, std::span<const float> gradient, float rate,
                               float range_rate) {
  const Group group = GroupAt(index);
  const int64_t begin = BeginOf(index);
  const GroupGradient sums = BestSignRoundLoops().step(
      RoundingOf(spec_, group.scale, group.zero), values_.data() + begin, rate, SizeOf(index),
      gradient.data() + begin, rounding_.data() + begin);
  if (range_rate <= 0) return;
  const RangeGradient by_range = GradientOf(index, group, sums.by_scale, sums.by_zero);
  min_scale_[index] = std::clamp(min_scale_[index] - range_rate * SignOf(by_range.min), 0.0f, 1.0f);
  max_scale_[index] = std::clamp(max_scale_[index] - range_rate * SignOf(by_range.max), 0.0f, 1.0f);
}

void SignRoundTuner::Step(std::span<const float> gradient, float rate, float range_rate,
                          std::span<float> out) {
  const auto step = [&](int64_t row) {
    for (int64_t index = row * groups_; index < (row + 1) * groups_; ++index) {
      StepGroup(index, gradient, rate, range_rate);
      RoundGroup(index, out);
    }
  };
  ParallelFor(rows_, step, static_cast<double>(cols_) * 2e-9);
}

void SignRoundTuner::Keep() {
  best_rounding_.resize(rounding_.size());
  const auto copy = [&](int64_t row) {
    std::copy_n(rounding_.data() + row * cols_, cols_, best_rounding_.data() + row * cols_);
  };
  ParallelFor(rows_, copy, static_cast<double>(cols_) * 5e-10);
  best_min_scale_ = min_scale_;
  best_max_scale_ = max_scale_;
}

absl::StatusOr<QuantizedTensor> SignRoundTuner::Best() const {
  if (best_rounding_.empty()) return QuantizeSignRound(Weight(), spec_, nullptr);
  const SignRoundTuning tuning = {best_rounding_, best_min_scale_, best_max_scale_};
  return QuantizeSignRound(Weight(), spec_, &tuning);
}

}  // namespace quantd

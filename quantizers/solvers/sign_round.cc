#include "quantizers/solvers/sign_round.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

constexpr float kLeastScale = 1e-5f;  // q_scale_thresh

int64_t GroupSize(const SignRoundSpec& spec, int64_t cols) {
  return spec.group_size <= 0 ? cols : std::min(spec.group_size, cols);
}

QuantizedTensor Empty(const TensorView& weight, const SignRoundSpec& spec) {
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(spec.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = GroupSize(spec, out.cols)};
  out.dequantized_dtype = DType::kF16;
  out.scale_dtype = DType::kF16;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.scale.resize(static_cast<size_t>(out.block_count()));
  out.zero_point.resize(out.scale.size());
  return out;
}

// Away from zero by at least the least scale, the sign kept.
template <class A>
float Bounded(float scale) {
  const float least = A::Round(kLeastScale);
  return scale < 0 ? std::min(scale, -least) : std::max(scale, least);
}

// Range of a group, its sides as tuned: W is the weight's arithmetic, unless float32 factors
// promote it.
struct Sides {
  float negative = 0;  // at most 0
  float positive = 0;
};

template <class W>
float SymmetricScale(const Sides& sides, int bits) {
  const float magnitude = std::max(-sides.negative, sides.positive);
  const float signed_max = sides.positive < -sides.negative ? magnitude : -magnitude;
  const float levels = static_cast<float>(1 << (bits - 1));
  return Bounded<InFloat16>(InFloat16::Round(W::Round(signed_max / levels)));
}

template <class W>
float AsymmetricScale(const Sides& sides, int bits) {
  const float levels = static_cast<float>((1 << bits) - 1);
  const float range = W::Round(sides.positive - sides.negative);
  return std::max(InFloat16::Round(W::Round(range / levels)), InFloat16::Round(kLeastScale));
}

// What the packers make of the rounded weight: W(scale * steps) / scale + zero, clamped.
template <class W, class P>
uint8_t Repacked(float steps, float scale, float zero, float max_code) {
  const float weight = W::Round(P::Round(scale * steps));
  const float code = RoundHalfEven(P::Round(P::Round(weight / scale) + zero));
  return static_cast<uint8_t>(std::clamp(code, 0.0f, max_code));
}

// W: the weight's arithmetic. R: that of ranges. P: of weights and fp16 scales together.
template <class W, class R, class P>
class Rounder {
 public:
  Rounder(const TensorView& weight, const SignRoundSpec& spec, const SignRoundTuning* tuning)
      : weight_(weight), spec_(spec), tuning_(tuning), out_(Empty(weight, spec)) {}

  absl::StatusOr<QuantizedTensor> Run() {
    const BlockLayout layout = {out_.rows, out_.cols, out_.block};
    RETURN_IF_ERROR(ChooseScales(BlockRanges(weight_, layout)));
    ForEachRun(weight_, layout, [this](const quantd::Run& run) { RoundRun(run); });
    return std::move(out_);
  }

 private:
  absl::Status ChooseScales(const std::vector<Range>& ranges) {
    for (size_t i = 0; i < ranges.size(); ++i) {
      Sides sides = {ranges[i].min, ranges[i].max};
      if (tuning_ != nullptr) {
        sides.negative *= tuning_->min_scale[i];
        sides.positive *= tuning_->max_scale[i];
      }
      const float scale =
          spec_.sym ? SymmetricScale<R>(sides, spec_.bits) : AsymmetricScale<R>(sides, spec_.bits);
      if (!std::isfinite(scale)) {
        return absl::InvalidArgumentError(absl::StrCat("the weights of group ", i, " range from ",
                                                       ranges[i].min, " to ", ranges[i].max,
                                                       ", too far for a scale in float16"));
      }
      using Z = std::conditional_t<std::is_same_v<R, W>, P, InFloat32>;
      out_.scale[i] = scale;
      out_.zero_point[i] = spec_.sym ? static_cast<float>(1 << (spec_.bits - 1))
                                     : RoundHalfEven(Z::Round(-sides.negative / scale));
    }
    return absl::OkStatus();
  }

  void RoundRun(const quantd::Run& run) {
    const float scale = out_.scale[run.block];
    const float zero = out_.zero_point[run.block];
    const float max_code = static_cast<float>((1 << spec_.bits) - 1);
    constexpr float kFar = 0x1p20f;  // beyond every code, within what RoundHalfEven takes
    for (int64_t i = 0; i < run.count; ++i) {
      float value = P::Round(run.values[i] / scale);
      if (tuning_ != nullptr) value += tuning_->rounding[run.first + i];
      const float steps = RoundHalfEven(std::clamp(value, -kFar, kFar));
      const float code = std::clamp(steps + zero, 0.0f, max_code);
      out_.codes[run.first + i] = Repacked<W, P>(code - zero, scale, zero, max_code);
    }
  }

  const TensorView& weight_;
  const SignRoundSpec& spec_;
  const SignRoundTuning* tuning_;
  QuantizedTensor out_;
};

// torch promotes weights and fp16 scales to float32 unless both are fp16.
template <class W>
using WithHalf = std::conditional_t<std::is_same_v<W, InFloat16>, InFloat16, InFloat32>;

// get_reciprocal: 0 for what is nearly 0.
template <class W>
float Reciprocal(float value) {
  const float least = W::kDType == DType::kF16 ? InFloat16::Round(1e-5f) : 1e-30f;
  return std::abs(value) >= least ? W::Round(1.0f / value) : 0.0f;
}

// The search over inverse scales of one group.
template <class W>
class GroupSearch {
 public:
  GroupSearch(std::span<const float> values, const float* importance, int bits)
      : values_(values),
        importance_(importance),
        levels_(static_cast<double>(1 << (bits - 1))),
        errors_(values.size()) {}

  float Find(int bits) {
    constexpr double kRatio = 0.75;
    constexpr int kGrid = 200;
    const double reach = levels_ * kRatio;
    const double step = bits == 2 ? 0.01 : reach / kGrid * 2;
    const int steps = bits == 2 ? 90 : static_cast<int>(reach / step);
    const float inverse_max = Reciprocal<W>(Largest());
    float best = 0;
    float least = Loss(W::Round(static_cast<float>(-levels_) * inverse_max), &best);
    for (int i = -steps; i <= steps; ++i) {
      if (i == 0) continue;
      const float factor = static_cast<float>(-(levels_ - step * i));
      float scale;
      const float loss = Loss(W::Round(factor * inverse_max), &scale);
      if (!(loss < least)) continue;
      least = loss;
      best = scale;
    }
    return best;
  }

 private:
  // The first of largest magnitude, with its sign.
  float Largest() const {
    return *std::max_element(values_.begin(), values_.end(),
                             [](float a, float b) { return std::abs(a) < std::abs(b); });
  }

  float Loss(float inverse, float* scale) {
    const float most = static_cast<float>(levels_);
    *scale = Reciprocal<W>(inverse);
    for (size_t i = 0; i < values_.size(); ++i) {
      const float code = std::clamp(RoundHalfEven(W::Round(inverse * values_[i])), -most, most - 1);
      const float error = W::Round(W::Round(*scale * code) - values_[i]);
      errors_[i] = error * error;
      if (importance_ != nullptr) errors_[i] *= importance_[i];
    }
    return TorchSum(errors_);
  }

  std::span<const float> values_;
  const float* importance_;
  double levels_;
  std::vector<float> errors_;
};

template <class W>
void SearchRun(const Run& run, const SignRoundSpec& spec, std::span<const float> importance,
               QuantizedTensor* out) {
  const float* weights = importance.empty() ? nullptr : importance.data() + run.first % out->cols;
  GroupSearch<W> search({run.values, static_cast<size_t>(run.count)}, weights, spec.bits);
  const float scale = Bounded<W>(search.Find(spec.bits));
  const float zero = static_cast<float>(1 << (spec.bits - 1));
  const float max_code = 2 * zero - 1;
  out->scale[run.block] = InFloat16::Round(scale);
  out->zero_point[run.block] = zero;
  for (int64_t i = 0; i < run.count; ++i) {
    const float steps = std::clamp(RoundHalfEven(W::Round(run.values[i] / scale)), -zero, zero - 1);
    out->codes[run.first + i] = Repacked<W, W>(steps, scale, zero, max_code);
  }
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeSignRound(const TensorView& weight,
                                                  const SignRoundSpec& spec,
                                                  const SignRoundTuning* tuning) {
  RETURN_IF_ERROR(CheckWeight(weight));
  return WithArithmetic(weight.dtype, [&](auto arithmetic) -> absl::StatusOr<QuantizedTensor> {
    using W = decltype(arithmetic);
    if (tuning == nullptr) return Rounder<W, W, WithHalf<W>>(weight, spec, tuning).Run();
    return Rounder<W, InFloat32, WithHalf<W>>(weight, spec, tuning).Run();
  });
}

absl::StatusOr<QuantizedTensor> QuantizeSearchedRound(const TensorView& weight,
                                                      const SignRoundSpec& spec,
                                                      std::span<const float> importance) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = Empty(weight, spec);
  const BlockLayout layout = {out.rows, out.cols, out.block};
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    ForEachRun(weight, layout, [&](const Run& run) {
      SearchRun<decltype(arithmetic)>(run, spec, importance, &out);
    });
  });
  for (size_t i = 0; i < out.scale.size(); ++i) {
    if (std::isfinite(out.scale[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the weights of group ", i, " are too large for a scale in float16"));
  }
  return out;
}

}  // namespace quantd

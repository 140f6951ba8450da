#include "quantizers/solvers/half_quadratic.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

constexpr int kIterations = 20;
constexpr float kInverseBeta = 0.1f;
constexpr float kPower = -0.3f;  // p - 1 for the l_p norm with p = 0.7
// Residuals up to here are never above |x|^(p-1) / beta, whatever a power function's last bit.
constexpr float kAlwaysShrunkToZero = 0.17f;
constexpr float kMinRange = 1e-4f;
constexpr float kMaxInverseScale = 2e4f;
constexpr int64_t kSliceElements = 16384;

// Upstream's shrink_lp_op: sign(x) * max(|x| - |x|^(p-1) / beta, 0).
float Shrink(float x) {
  const float magnitude = std::fabs(x);
  if (magnitude <= kAlwaysShrunkToZero) return 0.0f;
  // Rounded once; torch's vectorized power is at most one unit in the last place away.
  const float power =
      static_cast<float>(std::pow(static_cast<double>(magnitude), static_cast<double>(kPower)));
  return std::copysign(std::max(magnitude - kInverseBeta * power, 0.0f), x);
}

float CodeOf(float weight, float scale, float zero, float max_code) {
  const float position = weight * scale + zero;
  // Written so that a NaN gives a code too.
  return RoundHalfEven(position > 0 ? std::min(position, max_code) : 0.0f);
}

// One scale and zero for all elements of a line, or one for each.
enum class Parameters { kShared, kEach };

// The step of the iteration on a line of weights: how far the present codes are off, and the zero
// point that each element would like.
template <Parameters kParameters>
void StepLine(const float* weights, int64_t count, const float* scales, const float* zeros,
              float max_code, float* wishes, float* errors) {
  const auto at = [](const float* values, int64_t i) {
    return values[kParameters == Parameters::kEach ? i : 0];
  };
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    const float scale = at(scales, i);
    const float zero = at(zeros, i);
    const float code = CodeOf(weights[i], scale, zero, max_code);
    const float error = std::fabs(weights[i] - (code - zero) / scale);
    wishes[i] = code - weights[i] * scale;
    errors[i] = error;
    largest = error > largest ? error : largest;
  }
  if (largest <= kAlwaysShrunkToZero) return;
  for (int64_t i = 0; i < count; ++i) {
    const float scale = at(scales, i);
    const float zero = at(zeros, i);
    const float code = CodeOf(weights[i], scale, zero, max_code);
    const float outlier = Shrink(weights[i] - (code - zero) / scale);
    wishes[i] = code - (weights[i] - outlier) * scale;
  }
}

// The matrix as upstream reshapes it, [rows, cols] with groups along `axis`. Scales are inverse
// here: codes per weight.
class Iteration {
 public:
  Iteration(const TensorView& weight, const HalfQuadraticSpec& spec)
      : spec_(spec),
        elements_(weight.elements()),
        groups_(elements_ / spec.group_size),
        cols_(spec.axis == 1 ? spec.group_size : groups_),
        max_code_(static_cast<float>(spec.max_code)),
        weights_(static_cast<size_t>(elements_)),
        scales_(static_cast<size_t>(groups_)),
        zeros_(static_cast<size_t>(groups_)) {
    const int64_t slices = (elements_ + kSliceElements - 1) / kSliceElements;
    ParallelFor(slices, [&](int64_t slice) {
      const int64_t first = slice * kSliceElements;
      const int64_t count = std::min(kSliceElements, elements_ - first);
      LoadFloats(weight, first, count, weights_.data() + first);
    });
  }

  void Solve() {
    StartFromRange();
    if (!spec_.optimize) return;
    std::vector<float> errors(static_cast<size_t>(elements_));
    float best = std::numeric_limits<float>::infinity();
    for (int i = 0; i < kIterations; ++i) {
      Step(errors.data());
      const float error = TorchMean(errors);
      // Upstream stops here with the zero points of this step, not of the best one.
      if (!(error < best)) break;
      best = error;
    }
  }

  void StoreCodes(uint8_t* codes) const {
    ForEachLine([&](const Line& line) {
      const bool each = spec_.axis == 0;
      for (int64_t i = 0; i < line.count; ++i) {
        const int64_t group = line.group + (each ? i : 0);
        codes[line.first + i] = static_cast<uint8_t>(
            CodeOf(weights_[line.first + i], scales_[group], zeros_[group], max_code_));
      }
    });
  }

  const std::vector<float>& scales() const { return scales_; }
  const std::vector<float>& zeros() const { return zeros_; }

 private:
  // `count` neighbours that share group `group` (axis 1) or have the groups from there on (axis 0).
  struct Line {
    int64_t first;
    int64_t count;
    int64_t group;
  };

  // Groups that are worked on together: a multiple of 32, so that column sums are the whole's.
  int64_t SliceGroups() const {
    return std::max<int64_t>(32, kSliceElements / spec_.group_size / 32 * 32);
  }
  int64_t slices() const { return std::max<int64_t>(1, groups_ / SliceGroups()); }
  // Groups [begin, end) of a slice; the last takes what remains.
  std::pair<int64_t, int64_t> GroupsOf(int64_t slice) const {
    const int64_t begin = slice * SliceGroups();
    return {begin, slice + 1 == slices() ? groups_ : begin + SliceGroups()};
  }

  // The lines of a slice, in the order of rows.
  template <class Body>
  void ForEachLineOf(int64_t slice, const Body& body) const {
    const auto [begin, end] = GroupsOf(slice);
    if (spec_.axis == 1) {
      for (int64_t group = begin; group < end; ++group) body(Line{group * cols_, cols_, group});
      return;
    }
    for (int64_t row = 0; row < spec_.group_size; ++row) {
      body(Line{row * cols_ + begin, end - begin, begin});
    }
  }
  template <class Body>
  void ForEachLine(const Body& body) const {
    ParallelFor(slices(), [&](int64_t slice) { ForEachLineOf(slice, body); });
  }

  void StartFromRange() {
    ParallelFor(slices(), [&](int64_t slice) {
      const auto [begin, end] = GroupsOf(slice);
      std::vector<float> low(end - begin, std::numeric_limits<float>::infinity());
      std::vector<float> high(end - begin, -std::numeric_limits<float>::infinity());
      ForEachLineOf(slice, [&, first_group = begin](const Line& line) {
        for (int64_t i = 0; i < line.count; ++i) {
          const int64_t group = line.group - first_group + (spec_.axis == 0 ? i : 0);
          const float value = weights_[line.first + i];
          low[group] = std::min(low[group], value);
          high[group] = std::max(high[group], value);
        }
      });
      for (int64_t group = begin; group < end; ++group) {
        Start(group, low[group - begin], high[group - begin]);
      }
    });
  }

  void Start(int64_t group, float low, float high) {
    const float range = std::min(high - low, std::numeric_limits<float>::max());
    // torch divides a number by a tensor by multiplying with the reciprocal.
    float scale = 1.0f / range * max_code_;
    if (range <= kMinRange) scale = 1;
    scales_[group] = std::min(scale, kMaxInverseScale);
    const float zero = -low * scales_[group];
    zeros_[group] = spec_.round_zero ? std::nearbyint(zero) : zero;
  }

  // One step on all groups; fills `errors` [elements].
  void Step(float* errors) {
    ParallelFor(slices(), [&](int64_t slice) {
      if (spec_.axis == 1) return StepRows(slice, errors);
      StepColumns(slice, errors);
    });
  }

  void StepRows(int64_t slice, float* errors) {
    std::vector<float> wishes(static_cast<size_t>(cols_));
    ForEachLineOf(slice, [&](const Line& line) {
      StepLine<Parameters::kShared>(weights_.data() + line.first, line.count, &scales_[line.group],
                                    &zeros_[line.group], max_code_, wishes.data(),
                                    errors + line.first);
      zeros_[line.group] = TorchMean(wishes);
    });
  }

  void StepColumns(int64_t slice, float* errors) {
    const auto [begin, end] = GroupsOf(slice);
    const int64_t width = end - begin;
    std::vector<float> wishes(static_cast<size_t>(width * spec_.group_size));
    float* wish = wishes.data();
    ForEachLineOf(slice, [&](const Line& line) {
      StepLine<Parameters::kEach>(weights_.data() + line.first, line.count, &scales_[line.group],
                                  &zeros_[line.group], max_code_, wish, errors + line.first);
      wish += line.count;
    });
    TorchColumnMeans(wishes.data(), spec_.group_size, width, &zeros_[begin]);
  }

  HalfQuadraticSpec spec_;
  int64_t elements_;
  int64_t groups_;
  int64_t cols_;
  float max_code_;
  std::vector<float> weights_;
  std::vector<float> scales_;
  std::vector<float> zeros_;
};

absl::Status CheckSpec(const TensorView& weight, const HalfQuadraticSpec& spec) {
  if (spec.group_size > 0 && weight.elements() % spec.group_size == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("group_size ", spec.group_size,
                                                 " does not divide the ", weight.elements(),
                                                 " elements of the matrix"));
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeHalfQuadratic(const TensorView& weight,
                                                      const HalfQuadraticSpec& spec) {
  RETURN_IF_ERROR(CheckWeight(weight));
  RETURN_IF_ERROR(CheckSpec(weight, spec));
  Iteration iteration(weight, spec);
  iteration.Solve();
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.dequantized_dtype = weight.dtype;
  out.rounds_each_step = true;
  out.grid = UniformGrid(spec.bits, /*is_signed=*/false);
  out.block = GroupBlocks(out.rows, out.cols, spec.group_size, spec.axis);
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  iteration.StoreCodes(out.codes.data());
  out.scale_dtype = weight.dtype;
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    const auto finite = [](float value) { return std::clamp(A::Round(value), -A::kMax, A::kMax); };
    for (const float scale : iteration.scales()) out.scale.push_back(finite(1.0f / scale));
    for (const float zero : iteration.zeros()) out.zero_point.push_back(finite(zero));
  });
  return out;
}

}  // namespace quantd

#include "quantizers/solvers/half_quadratic.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/half_quadratic_loops.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/run_loops.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

constexpr int kIterations = 20;
constexpr int kStepsAtOnce = 4;
static_assert(kIterations % kStepsAtOnce == 0);
constexpr float kMinRange = 1e-4f;
constexpr float kMaxInverseScale = 2e4f;
constexpr int64_t kSliceElements = 16384;
constexpr int64_t kMostSliceElements = kSliceElements * 8;  // what a core's cache holds

// Values of the matrix, widened; valid until this thread asks for the next.
const float* LoadInto(const TensorView& weight, int64_t first, int64_t count) {
  thread_local std::vector<float> values;
  values.resize(static_cast<size_t>(count));
  LoadFloats(weight, first, count, values.data());
  return values.data();
}

// The matrix as upstream reshapes it, [rows, cols] with groups along `axis`. Scales are inverse
// here: codes per weight.
class Iteration {
 public:
  Iteration(const TensorView& weight, const HalfQuadraticSpec& spec, const StopRequest& stopped)
      : weight_(weight),
        spec_(spec),
        stopped_(stopped),
        elements_(weight.elements()),
        groups_(elements_ / spec.group_size),
        cols_(spec.axis == 1 ? spec.group_size : groups_),
        max_code_(static_cast<float>(spec.max_code)),
        sum_(elements_),
        scales_(static_cast<size_t>(groups_)),
        zeros_(static_cast<size_t>(groups_)) {}

  absl::Status Solve() {
    StartFromRange();
    if (!spec_.optimize) return CheckStopped(stopped_);
    if (spec_.axis == 1 && PartSlice() <= kMostSliceElements) return SolveInParts();
    std::vector<float> errors(static_cast<size_t>(elements_));
    float best = std::numeric_limits<float>::infinity();
    for (int i = 0; i < kIterations; ++i) {
      RETURN_IF_ERROR(Step(errors.data()));
      const float error = TorchMean(errors);
      // Upstream stops here with the zero points of this step, not of the best one.
      if (!(error < best)) break;
      best = error;
    }
    return absl::OkStatus();
  }

  void StoreCodes(uint8_t* codes) const {
    ForEachLine([&](const Line& line) {
      const float* scales = &scales_[line.group];
      const float* zeros = &zeros_[line.group];
      if (spec_.axis == 0) {
        loops_.codes_each(line.weights, line.count, scales, zeros, max_code_, codes + line.first);
      } else {
        loops_.codes(line.weights, line.count, *scales, *zeros, max_code_, codes + line.first);
      }
    });
  }

  const std::vector<float>& scales() const { return scales_; }
  const std::vector<float>& zeros() const { return zeros_; }

 private:
  // `count` neighbours that share group `group` (axis 1) or have the groups from there on (axis 0).
  struct Line {
    const float* weights;
    int64_t first;
    int64_t count;
    int64_t group;
  };
  // What some steps gave: zero points after each, and the sums of each step's errors by parts.
  struct Steps {
    std::vector<float> zeros[kStepsAtOnce];
    std::vector<float> sums[kStepsAtOnce];
    std::vector<float> rest[kStepsAtOnce];  // errors behind the last whole part
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
      const float* weights = LoadInto(weight_, begin * cols_, (end - begin) * cols_);
      for (int64_t group = begin; group < end; ++group) {
        body(Line{weights + (group - begin) * cols_, group * cols_, cols_, group});
      }
      return;
    }
    for (int64_t row = 0; row < spec_.group_size; ++row) {
      const int64_t first = row * cols_ + begin;
      body(Line{LoadInto(weight_, first, end - begin), first, end - begin, begin});
    }
  }
  template <class Body>
  void ForEachLine(const Body& body) const {
    ParallelFor(slices(), [&](int64_t slice) { ForEachLineOf(slice, body); });
  }

  void StartFromRange() {
    ParallelFor(slices(), [&](int64_t slice) {
      const auto [begin, end] = GroupsOf(slice);
      if (spec_.axis == 1) {
        ForEachLineOf(slice, [&](const Line& line) {
          const Range range = BestRunLoops().least_and_greatest(line.weights, line.count);
          Start(line.group, range.min, range.max);
        });
        return;
      }
      std::vector<float> low(end - begin, std::numeric_limits<float>::infinity());
      std::vector<float> high(end - begin, -std::numeric_limits<float>::infinity());
      ForEachLineOf(slice, [&](const Line& line) {
        for (int64_t i = 0; i < line.count; ++i) {
          low[i] = std::min(low[i], line.weights[i]);
          high[i] = std::max(high[i], line.weights[i]);
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

  // Elements of a slice that holds whole groups and whole parts of the sum of errors.
  int64_t PartSlice() const {
    const int64_t unit = std::lcm(sum_.part_size(), spec_.group_size);
    return unit * std::max<int64_t>(1, kSliceElements / unit);
  }

  // Several steps at once on every slice, while it is in the cache. How many of them count is known
  // when the errors of the whole matrix are.
  absl::Status SolveInParts() {
    Steps steps;
    for (std::vector<float>& zeros : steps.zeros) zeros.resize(zeros_.size());
    const int64_t parts = elements_ / sum_.part_size();
    for (std::vector<float>& sums : steps.sums) sums.resize(parts * TorchSumInParts::kSums);
    for (std::vector<float>& rest : steps.rest) rest.resize(elements_ % sum_.part_size());
    float best = std::numeric_limits<float>::infinity();
    for (int done = 0; done < kIterations; done += kStepsAtOnce) {
      const int64_t slice = PartSlice();
      RETURN_IF_ERROR(ParallelForUnlessStopped(
          (elements_ + slice - 1) / slice, stopped_,
          [&](int64_t index) { StepInPart(index * slice, slice, steps); }));
      for (int i = 0; i < kStepsAtOnce; ++i) {
        const float error =
            sum_.Total(steps.sums[i], steps.rest[i]) / static_cast<float>(elements_);
        zeros_.swap(steps.zeros[i]);
        if (!(error < best)) return absl::OkStatus();
        best = error;
      }
    }
    return absl::OkStatus();
  }

  void StepInPart(int64_t first, int64_t slice, Steps& steps) const {
    thread_local std::vector<float> errors, zeros, scratch;
    const int64_t count = std::min(slice, elements_ - first);
    const int64_t size = spec_.group_size, group = first / size, groups = count / size;
    const float* weights = LoadInto(weight_, first, count);
    errors.resize(static_cast<size_t>(count));
    scratch.resize(static_cast<size_t>(size));
    zeros.assign(zeros_.begin() + group, zeros_.begin() + group + groups);
    for (int i = 0; i < kStepsAtOnce; ++i) {
      loops_.step(weights, groups, size, &scales_[group], max_code_, zeros.data(), errors.data(),
                  scratch.data());
      std::copy(zeros.begin(), zeros.end(), steps.zeros[i].begin() + group);
      float* sums = steps.sums[i].data() + first / sum_.part_size() * TorchSumInParts::kSums;
      int64_t at = 0;
      for (; at + sum_.part_size() <= count; at += sum_.part_size()) {
        sum_.SumPart(errors.data() + at, sums);
        sums += TorchSumInParts::kSums;
      }
      std::copy(errors.begin() + at, errors.end(), steps.rest[i].begin());
    }
  }

  // One step on all groups; fills `errors` [elements].
  absl::Status Step(float* errors) {
    return ParallelForUnlessStopped(slices(), stopped_, [&](int64_t slice) {
      if (spec_.axis == 1) return StepRows(slice, errors);
      StepColumns(slice, errors);
    });
  }

  void StepRows(int64_t slice, float* errors) {
    std::vector<float> wishes(static_cast<size_t>(cols_));
    const auto [begin, end] = GroupsOf(slice);
    const float* weights = LoadInto(weight_, begin * cols_, (end - begin) * cols_);
    loops_.step(weights, end - begin, cols_, &scales_[begin], max_code_, &zeros_[begin],
                errors + begin * cols_, wishes.data());
  }

  void StepColumns(int64_t slice, float* errors) {
    const auto [begin, end] = GroupsOf(slice);
    const int64_t width = end - begin;
    std::vector<float> wishes(static_cast<size_t>(width * spec_.group_size));
    float* wish = wishes.data();
    ForEachLineOf(slice, [&](const Line& line) {
      loops_.step_each(line.weights, line.count, &scales_[line.group], &zeros_[line.group],
                       max_code_, wish, errors + line.first);
      wish += line.count;
    });
    TorchColumnMeans(wishes.data(), spec_.group_size, width, &zeros_[begin]);
  }

  const TensorView& weight_;
  const HalfQuadraticSpec spec_;
  const StopRequest& stopped_;
  const int64_t elements_;
  const int64_t groups_;
  const int64_t cols_;
  const float max_code_;
  const TorchSumInParts sum_;
  const HalfQuadraticLoops& loops_ = BestHalfQuadraticLoops();
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
                                                      const HalfQuadraticSpec& spec,
                                                      const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  RETURN_IF_ERROR(CheckSpec(weight, spec));
  Iteration iteration(weight, spec, stopped);
  RETURN_IF_ERROR(iteration.Solve());
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

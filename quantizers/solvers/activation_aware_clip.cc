// AWQ's search for the largest magnitude of every group: activation_aware.h.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/float_buffer.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "quantizers/solvers/activation_aware.h"
#include "quantizers/solvers/activation_aware_rounding.h"
#include "quantizers/solvers/half_products.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int kTries = 10;          // magnitudes, down to half the largest
constexpr int64_t kBandRows = 32;   // rows that are searched together
constexpr int64_t kMostGram = 256;  // columns of a group whose gram matrix pays

float Half(float value) { return InFloat16::Round(value); }

// The search of one group in a band of rows. Upstream's errors are means of squares of float16 sums
// of float16 products. A try's error is near d X^T X d^T, d the change of its weights, which costs
// an eighth: tries far from the least by that are left out, and upstream's arithmetic is done for
// the rest. Where float16 loses more of a square than a little, it is done for all.
class ClipSearch {
 public:
  // `samples` [tokens, group], rows `stride` apart.
  ClipSearch(const AwqSpec& spec, int64_t group, const float* samples, int64_t tokens,
             int64_t stride)
      : spec_(spec),
        group_(group),
        samples_(samples),
        tokens_(tokens),
        stride_(stride),
        reference_(static_cast<size_t>(tokens)),
        outputs_(reference_.size()),
        rounded_(static_cast<size_t>(group)) {}

  // The best limits of `rows` rows of weights, `weight_stride` apart; with the group's gram matrix
  // [group, group], or null.
  void Find(const float* weights, int64_t rows, int64_t weight_stride, const float* gram,
            float* limits, int64_t limit_stride) {
    if (gram != nullptr) EstimateErrors(weights, rows, weight_stride, gram);
    for (int64_t row = 0; row < rows; ++row) {
      const float* values = weights + row * weight_stride;
      limits[row * limit_stride] = FindOne(values, gram != nullptr ? Near(row) : kAll);
    }
  }

 private:
  using Tries = std::array<bool, kTries>;
  static constexpr Tries kAll = {true, true, true, true, true, true, true, true, true, true};

  static float Limit(const WeightRange& range, int k) {
    constexpr int kGrid = 20;
    const float most = std::max(range.largest, -range.smallest);
    return Half(most * static_cast<float>(1.0 - k / double{kGrid}));
  }

  // What weights become when they are clipped and rounded.
  void Round(const float* weights, const WeightRange& range, float limit, float* out) const {
    for (int64_t i = 0; i < group_; ++i) out[i] = std::clamp(weights[i], -limit, limit);
    const AwqRounding rounding(std::clamp(range.smallest, -limit, limit),
                               std::clamp(range.largest, -limit, limit), spec_);
    products_.round(rounding, group_, out);
  }

  // errors_[row][k] of all tries, in float32.
  void EstimateErrors(const float* weights, int64_t rows, int64_t weight_stride,
                      const float* gram) {
    const int64_t count = rows * kTries;
    changes_.resize(static_cast<size_t>(count * group_));
    products_of_changes_.assign(changes_.size(), 0.0f);
    for (int64_t row = 0; row < rows; ++row) {
      const float* values = weights + row * weight_stride;
      const WeightRange range = RangeOf(values, group_);
      for (int k = 0; k < kTries; ++k) {
        float* change = changes_.data() + (row * kTries + k) * group_;
        Round(values, range, Limit(range, k), change);
        for (int64_t i = 0; i < group_; ++i) change[i] -= values[i];
      }
    }
    AddMatrixProduct(count, group_, group_, {changes_.data(), group_, 1}, {gram, group_, 1},
                     products_of_changes_.data(), group_);
    errors_.resize(static_cast<size_t>(rows));
    for (int64_t i = 0; i < count; ++i) {
      const float* change = changes_.data() + i * group_;
      const float* product = products_of_changes_.data() + i * group_;
      const float sum = std::inner_product(change, change + group_, product, 0.0f);
      errors_[i / kTries][i % kTries] = sum / static_cast<float>(tokens_);
    }
  }

  // The tries of a row whose error may be the least.
  Tries Near(int64_t row) const {
    // Float16 resolves means of squares to 0.3 % down to this; below it, or beyond its range,
    // estimates say little.
    constexpr float kSmall = 2e-5f, kLarge = 1e3f;
    constexpr float kNear = 1.02f;  // rounding moves errors by a few thousandths
    const std::array<float, kTries>& errors = errors_[static_cast<size_t>(row)];
    const float least = *std::min_element(errors.begin(), errors.end());
    if (!(least > kSmall && least < kLarge)) return kAll;
    Tries near;
    for (int k = 0; k < kTries; ++k) near[k] = errors[k] <= least * kNear;
    return near;
  }

  // Of the tries with the least error the first.
  float FindOne(const float* weights, const Tries& tries) {
    const WeightRange range = RangeOf(weights, group_);
    const auto only = std::find(tries.begin(), tries.end(), true);
    if (std::find(only + 1, tries.end(), true) == tries.end()) {
      return Limit(range, static_cast<int>(only - tries.begin()));
    }
    Outputs(weights, 0, tokens_, reference_);
    float best = Limit(range, 0);
    float least = std::numeric_limits<float>::infinity();
    for (int k = 0; k < kTries; ++k) {
      if (!tries[k]) continue;
      const float limit = Limit(range, k);
      Round(weights, range, limit, rounded_.data());
      const float error = Error(least);
      if (!(error < least)) continue;
      least = error;
      best = limit;
    }
    return best;
  }

  // The mean squared error of rounded_, or as soon as it can only be above `least` what is known of
  // it.
  float Error(float least) {
    constexpr int64_t kTokens = 64;
    float sum = 0;
    for (int64_t first = 0; first < tokens_; first += kTokens) {
      const int64_t end = std::min(tokens_, first + kTokens);
      Outputs(rounded_.data(), first, end, outputs_);
      for (int64_t t = first; t < end; ++t) {
        const float difference = Half(outputs_[t] - reference_[t]);
        sum += Half(difference * difference);
      }
      if (Half(sum / static_cast<float>(tokens_)) > least) break;
    }
    return Half(sum / static_cast<float>(tokens_));
  }

  // Of tokens [first, end).
  void Outputs(const float* weights, int64_t first, int64_t end, std::vector<float>& out) const {
    products_.sums(samples_ + first * stride_, stride_, end - first, weights, group_,
                   out.data() + first);
  }

  const HalfProducts& products_ = BestHalfProducts();
  const AwqSpec& spec_;
  int64_t group_;
  const float* samples_;
  int64_t tokens_;
  int64_t stride_;
  std::vector<float> reference_, outputs_, rounded_;
  FloatBuffer changes_, products_of_changes_;      // [rows, tries, group]
  std::vector<std::array<float, kTries>> errors_;  // by row
};

// X^T X of every group, [groups, group, group].
FloatBuffer GroupGrams(std::span<const float> samples, int64_t cols, int64_t group) {
  const int64_t tokens = static_cast<int64_t>(samples.size()) / cols, size = group * group;
  FloatBuffer grams(static_cast<size_t>(cols / group * size), 0.0f);
  ParallelFor(cols / group, [&](int64_t g) {
    const MatrixOperand x = {samples.data() + g * group, cols, 1};
    AddMatrixProduct(group, group, tokens, x.Transposed(), x, grams.data() + g * size, group);
  });
  return grams;
}

}  // namespace

absl::StatusOr<std::vector<float>> SearchClip(const HalfMatrix& weight, const AwqSpec& spec,
                                              std::span<const float> samples,
                                              const std::function<bool()>& stopped) {
  RETURN_IF_ERROR(CheckAwqSamples(samples, weight.cols));
  const int64_t group = spec.GroupOf(weight.cols), groups = weight.cols / group;
  const int64_t tokens = static_cast<int64_t>(samples.size()) / weight.cols;
  const bool estimates = group <= kMostGram && group * 4 <= tokens;
  const FloatBuffer grams = estimates ? GroupGrams(samples, weight.cols, group) : FloatBuffer();
  const int64_t bands = (weight.rows + kBandRows - 1) / kBandRows;
  std::vector<float> limits(static_cast<size_t>(weight.rows * groups));
  std::atomic<bool> cancelled = false;
  ParallelFor(bands * groups, [&](int64_t task) {
    if (cancelled || (stopped && stopped())) {
      cancelled = true;
      return;
    }
    const int64_t g = task % groups, row = task / groups * kBandRows;
    ClipSearch search(spec, group, samples.data() + g * group, tokens, weight.cols);
    search.Find(weight.row(row) + g * group, std::min(kBandRows, weight.rows - row), weight.cols,
                estimates ? grams.data() + g * group * group : nullptr,
                limits.data() + row * groups + g, groups);
  });
  if (cancelled) return absl::CancelledError("the operation was cancelled");
  return limits;
}

}  // namespace quantd

#include "quantizers/solvers/spqr.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/float_types.h"
#include "core/tiled_scales.h"
#include "kernels/matrix_product.h"
#include "quantizers/solvers/hessian.h"

namespace quantd {
namespace {

constexpr int kGroup = 16;  // columns that share a scale, and rows whose scales share one
constexpr int kMaxCode = 7;
constexpr float kLargestZero = 16384;
constexpr float kLargestF16 = 65504;
constexpr int64_t kBlock = 128;  // columns after which the error reaches all later ones

using Group = std::array<float, kGroup>;

// w ~ scale * (code - zero). The zero point is not rounded.
struct Affine {
  float scale = 1, zero = 0;

  float code(float value) const {
    return std::clamp(std::nearbyint(value / std::max(scale, 1e-9f) + zero), 0.0f,
                      static_cast<float>(kMaxCode));
  }
  float value(float code) const { return scale * (code - zero); }
};

// Over the values but the one at `without` (-1: all).
Affine FitRange(const Group& values, int without = -1) {
  float low = std::numeric_limits<float>::infinity(), high = -low;
  for (int i = 0; i < kGroup; ++i) {
    if (i == without) continue;
    low = std::min(low, values[i]);
    high = std::max(high, values[i]);
  }
  // Upstream takes -1 to 1, in which a constant has no code.
  if (low == high) return {std::abs(low) / kMaxCode, low < 0 ? float{kMaxCode} : 0.0f};
  // The zero point has to be a float16; weights that are so alike differ by less than its steps.
  const float scale = std::max((high - low) / kMaxCode, std::max(-low, high) / kLargestZero);
  return {scale, -low / scale};
}

// Sum of ((w' - w) / u)^2 over the values but the one at `without`.
float ErrorOf(const Affine& affine, const Group& values, const float* diagonal, int without = -1) {
  float error = 0;
  for (int i = 0; i < kGroup; ++i) {
    if (i == without) continue;
    const float difference = (affine.value(affine.code(values[i])) - values[i]) / diagonal[i];
    error += difference * difference;
  }
  return error;
}

// The range of a group without the weights that would gain most by being outliers.
Affine FitWithoutOutliers(const Group& values, const float* diagonal, float threshold) {
  const float base = ErrorOf(FitRange(values), values, diagonal);
  std::array<bool, kGroup> likely;
  float sum = 0, count = 0;
  for (int i = 0; i < kGroup; ++i) {
    likely[i] = base - ErrorOf(FitRange(values, i), values, diagonal, i) > threshold;
    if (likely[i]) continue;
    sum += values[i];
    count += 1;
  }
  Group others = values;
  for (int i = 0; i < kGroup; ++i) {
    if (likely[i]) others[i] = sum / std::max(count, 1.0f);
  }
  const auto constant = [](const Group& group) {
    return std::all_of(group.begin(), group.end(), [&group](float v) { return v == group[0]; });
  };
  // Of a group that is nothing but outliers upstream leaves the range -1 to 1.
  if (constant(others) && !constant(values)) return {2.0f / kMaxCode, 0.5f * kMaxCode};
  return FitRange(others);
}

// What all bands of rows share.
struct Problem {
  std::span<const float> weight;
  int64_t rows = 0, cols = 0;
  SpqrSpec spec;
  OrderedHessian hessian;
  std::vector<float> diagonal;  // of the factor
  float threshold = 0;          // of a squared error
};

// 16 rows, which share second-order scales and nothing else with others.
class Band {
 public:
  Band(const Problem& problem, int64_t first_row, QuantizedTensor* out)
      : p_(problem), first_row_(first_row), out_(out) {}

  // The columns from `begin`, a multiple of kBlock, to the end of its block; call for one after
  // another.
  void QuantizeBlock(int64_t begin) {
    if (begin == 0) ReadWeights();
    const int64_t end = std::min(begin + kBlock, p_.cols);
    std::vector<float> errors(kGroup * kBlock);
    for (int64_t c = begin; c < end; ++c) {
      if (c % kGroup == 0) FitGroup(c);
      for (int64_t r = 0; r < kGroup; ++r) {
        errors[r * kBlock + c - begin] = QuantizeWeight(r, c, end);
      }
    }
    if (end == p_.cols) return;
    AddMatrixProduct(kGroup, p_.cols - end, end - begin, {errors.data(), kBlock},
                     {p_.hessian.factor.data() + begin * p_.cols + end, p_.cols},
                     weight_.data() + end, p_.cols);
  }

  struct Outlier {
    int64_t column;  // of the solver
    float value;
  };
  const std::vector<Outlier>& outliers(int64_t row) const { return outliers_[row]; }

 private:
  // In the solver's order; dead columns are zeros.
  void ReadWeights() {
    weight_.resize(kGroup * p_.cols);
    for (int64_t r = 0; r < kGroup; ++r) {
      for (int64_t c = 0; c < p_.cols; ++c) {
        if (p_.hessian.dead[c]) continue;
        weight_[r * p_.cols + c] = p_.weight[(first_row_ + r) * p_.cols + p_.hessian.order[c]];
      }
    }
  }

  // Scales and zero points of the groups that begin at column c, and their codes.
  void FitGroup(int64_t c) {
    Group scales, zeros;
    const bool refit = !p_.spec.simplified_outliers && std::isfinite(p_.threshold);
    for (int64_t r = 0; r < kGroup; ++r) {
      Group values;
      std::copy_n(weight_.begin() + r * p_.cols + c, kGroup, values.begin());
      const Affine fit = refit ? FitWithoutOutliers(values, p_.diagonal.data() + c, p_.threshold)
                               : FitRange(values);
      scales[r] = fit.scale;
      zeros[r] = fit.zero;
    }
    const Affine scale = FitRange(scales), zero = FitRange(zeros);
    NestedScales& nested = *out_->nested;
    const int64_t width = p_.cols / kGroup, tile = first_row_ / kGroup * width + c / kGroup;
    nested.super_scale[tile] = RoundTo(DType::kF16, scale.scale);
    nested.scale_zero[tile] = RoundTo(DType::kF16, scale.zero);
    nested.super_offset[tile] = RoundTo(DType::kF16, zero.scale);
    nested.offset_zero[tile] = RoundTo(DType::kF16, zero.zero);
    for (int64_t r = 0; r < kGroup; ++r) {
      const float scale_code = scale.code(scales[r]), zero_code = zero.code(zeros[r]);
      const int64_t block = (first_row_ + r) * width + c / kGroup;
      nested.scale_codes[block] = static_cast<uint8_t>(scale_code);
      nested.offset_codes[block] = static_cast<uint8_t>(zero_code);
      groups_[r] = {scale.value(scale_code), zero.value(zero_code)};
    }
  }

  // Returns minus the weight's error over the factor's diagonal, and spreads it over the later
  // columns below `end`.
  float QuantizeWeight(int64_t r, int64_t c, int64_t end) {
    float* line = weight_.data() + r * p_.cols;
    const float value = line[c];
    float code = groups_[r].code(value);
    float error = (value - groups_[r].value(code)) / p_.diagonal[c];
    if (error * error > p_.threshold) {
      outliers_[r].push_back({c, value});
      code = groups_[r].code(0);
      error = 0;
    }
    out_->codes[(first_row_ + r) * p_.cols + c] = static_cast<uint8_t>(code);
    const float* factor = p_.hessian.factor.data() + c * p_.cols;
    for (int64_t k = c + 1; k < end; ++k) line[k] -= error * factor[k];
    return -error;
  }

  const Problem& p_;
  int64_t first_row_;
  QuantizedTensor* out_;
  std::vector<float> weight_;  // [16, cols] in the solver's order, changed as it goes
  std::array<Affine, kGroup> groups_;
  std::array<std::vector<Outlier>, kGroup> outliers_;
};

// The squared error that makes an outlier: relative to the mean over the columns of the weights'
// variance over the factor's squared diagonal.
absl::StatusOr<float> Threshold(const Problem& p, const StopRequest& stopped) {
  if (!std::isfinite(p.spec.outlier_threshold)) return std::numeric_limits<float>::infinity();
  std::vector<double> squares(p.cols);
  constexpr int64_t kSlice = 256;  // columns
  RETURN_IF_ERROR(
      ParallelForUnlessStopped((p.cols + kSlice - 1) / kSlice, stopped, [&](int64_t slice) {
        const int64_t first = slice * kSlice, count = std::min(kSlice, p.cols - first);
        double means[kSlice] = {}, sums[kSlice] = {};
        for (int64_t r = 0; r < p.rows; ++r) {
          const float* row = p.weight.data() + r * p.cols + first;
          for (int64_t c = 0; c < count; ++c) means[c] += row[c];
        }
        for (double& mean : means) mean /= static_cast<double>(p.rows);
        for (int64_t r = 0; r < p.rows; ++r) {
          const float* row = p.weight.data() + r * p.cols + first;
          for (int64_t c = 0; c < count; ++c) sums[c] += (row[c] - means[c]) * (row[c] - means[c]);
        }
        std::copy_n(sums, count, squares.begin() + first);
      }));
  double scale = 0;
  for (int64_t c = 0; c < p.cols; ++c) {
    if (p.hessian.dead[c]) continue;
    const double variance = squares[p.hessian.order[c]] / static_cast<double>(p.rows - 1);
    scale += variance / (double{p.diagonal[c]} * p.diagonal[c]) / static_cast<double>(p.cols);
  }
  return static_cast<float>(p.spec.outlier_threshold * scale);
}

QuantizedTensor EmptySpqr(const Problem& p) {
  QuantizedTensor out;
  out.rows = p.rows;
  out.cols = p.cols;
  out.grid = UniformGrid(3, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = kGroup};
  out.scale_dtype = out.dequantized_dtype = DType::kF16;
  out.rounds_each_step = true;
  out.codes.resize(p.rows * p.cols);
  NestedScales& nested = out.nested.emplace();
  nested.super_rows = kGroup;
  nested.scale_codes.resize(p.rows * p.cols / kGroup);
  nested.offset_codes.resize(p.rows * p.cols / kGroup);
  for (auto* values :
       {&nested.super_scale, &nested.super_offset, &nested.scale_zero, &nested.offset_zero}) {
    values->resize(p.rows * p.cols / kGroup / kGroup);
  }
  if (!std::is_sorted(p.hessian.order.begin(), p.hessian.order.end())) {
    out.input.permutation = p.hessian.order;
  }
  return out;
}

// What the codes stand for without outliers, as the file's readers compute it.
float DenseValue(const QuantizedTensor& t, int64_t row, int64_t column) {
  const int64_t block = t.block_of(row, column);
  const float code = t.codes[row * t.cols + column];
  return RoundTo(DType::kF16, RoundTo(DType::kF16, code - t.zero_point[block]) * t.scale[block]);
}

}  // namespace

absl::StatusOr<QuantizedTensor> SolveSpqr(std::span<const float> weight, int64_t rows, int64_t cols,
                                          std::span<const float> gram, const SpqrSpec& spec,
                                          const StopRequest& stopped) {
  Problem problem{weight, rows, cols, spec, {}, std::vector<float>(cols), 0};
  ASSIGN_OR_RETURN(problem.hessian,
                   OrderHessian(gram, cols, spec.act_order, spec.percdamp, stopped));
  for (int64_t c = 0; c < cols; ++c) problem.diagonal[c] = problem.hessian.factor[c * (cols + 1)];
  ASSIGN_OR_RETURN(problem.threshold, Threshold(problem, stopped));
  QuantizedTensor out = EmptySpqr(problem);
  std::vector<Band> bands;
  for (int64_t row = 0; row < rows; row += kGroup) bands.emplace_back(problem, row, &out);
  for (int64_t begin = 0; begin < cols; begin += kBlock) {
    const double operations = static_cast<double>(kGroup * kBlock * (cols - begin));
    RETURN_IF_ERROR(ParallelPieces(rows / kGroup, operations, stopped,
                                   [&](int64_t band) { bands[band].QuantizeBlock(begin); }));
  }
  FillTiledScales(&out);
  out.outliers.row_begin = {0};
  for (int64_t row = 0; row < rows; ++row) {
    for (const Band::Outlier& outlier : bands[row / kGroup].outliers(row % kGroup)) {
      const float dense = spec.exact_outliers ? DenseValue(out, row, outlier.column) : 0.0f;
      out.outliers.column.push_back(problem.hessian.order[outlier.column]);
      const float value = std::clamp(outlier.value - dense, -kLargestF16, kLargestF16);
      out.outliers.value.push_back(RoundTo(DType::kF16, value));
    }
    out.outliers.row_begin.push_back(static_cast<int64_t>(out.outliers.column.size()));
  }
  return out;
}

}  // namespace quantd

#include "quantizers/output_error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

double SumOfSquares(const std::vector<float>& values) {
  constexpr size_t kLanes = 16;
  double lanes[kLanes] = {};
  const size_t whole = values.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      lanes[k] += static_cast<double>(values[i + k]) * values[i + k];
    }
  }
  for (size_t i = whole; i < values.size(); ++i) {
    lanes[i - whole] += static_cast<double>(values[i]) * values[i];
  }
  return std::accumulate(lanes, lanes + kLanes, 0.0);
}

// A matrix beside its source, on inputs.
class Comparison {
 public:
  Comparison(const TensorView& weight, std::span<const float> inputs)
      : rows_(weight.shape[0]),
        cols_(weight.shape[1]),
        inputs_(inputs),
        exact_(static_cast<size_t>(rows_ * cols_)) {
    ParallelFor(
        rows_,
        [&](int64_t row) { LoadFloats(weight, row * cols_, cols_, exact_.data() + row * cols_); },
        kSecondsPerRow);
    energy_ = OutputEnergy(exact_);
  }

  // The error of `approximate(row, exact, out)`, which fills one row.
  template <class Approximate>
  double ErrorOf(const Approximate& approximate) const {
    if (!(energy_ > 0)) return 0;
    std::vector<float> difference(exact_.size());
    const auto fill = [&](int64_t row) {
      const float* exact = exact_.data() + row * cols_;
      float* out = difference.data() + row * cols_;
      approximate(row, exact, out);
      for (int64_t c = 0; c < cols_; ++c) out[c] -= exact[c];
    };
    ParallelFor(rows_, fill, kSecondsPerRow);
    return std::sqrt(OutputEnergy(difference) / energy_);
  }

 private:
  static constexpr double kSecondsPerRow = 5e-6;  // about

  // |X D^T|^2 for D [rows, cols].
  double OutputEnergy(const std::vector<float>& matrix) const {
    const int64_t tokens = static_cast<int64_t>(inputs_.size()) / cols_;
    std::vector<float> outputs(static_cast<size_t>(tokens * rows_));
    AddMatrixProduct(tokens, rows_, cols_, {inputs_.data(), cols_, 1},
                     MatrixOperand{matrix.data(), cols_, 1}.Transposed(), outputs.data(), rows_);
    return SumOfSquares(outputs);
  }

  const int64_t rows_, cols_;
  const std::span<const float> inputs_;
  std::vector<float> exact_;
  double energy_ = 0;
};

double ErrorOf(const Comparison& comparison, const QuantizedTensor& quantized) {
  return comparison.ErrorOf(
      [&](int64_t row, const float*, float* out) { PlainRows(quantized, row, 1, out); });
}

// Rounds to the nearest value of a grid, of two as near to the lower.
class NearestValue {
 public:
  explicit NearestValue(const Grid& grid) {
    if (grid.kind != Grid::Kind::kTable) {
      least_ = static_cast<float>(grid.first);
      most_ = static_cast<float>(grid.first + (1 << grid.bits) - 1);
      return;
    }
    table_ = grid.table;
    std::erase_if(table_, [](float v) { return !std::isfinite(v); });
    std::sort(table_.begin(), table_.end());
  }

  float Of(float target) const {
    if (table_.empty()) return std::clamp(std::ceil(target - 0.5f), least_, most_);
    auto above = std::lower_bound(table_.begin(), table_.end(), target);
    if (above == table_.end()) --above;
    if (above != table_.begin() && target - above[-1] <= *above - target) --above;
    return *above;
  }

 private:
  std::vector<float> table_;  // or all integers from least_ to most_
  float least_ = 0, most_ = 0;
};

double RoundingErrorOf(const Comparison& comparison, const QuantizedTensor& quantized) {
  const InputTransform& input = quantized.input;
  if (quantized.grid.kind == Grid::Kind::kCodebook || quantized.grid.bits > 8 ||
      !input.channel_scale.empty() || input.hadamard_size > 1 || quantized.unquantized) {
    return -1;
  }
  const NearestValue nearest(quantized.grid);
  const std::vector<int32_t>& order = input.permutation;
  const bool by_row = !quantized.block.flat && !quantized.block.strided;
  const int64_t width = !by_row                    ? 1
                        : quantized.block.cols > 0 ? quantized.block.cols
                                                   : quantized.cols;
  return comparison.ErrorOf([&](int64_t row, const float* exact, float* out) {
    for (int64_t first = 0; first < quantized.cols; first += width) {
      const auto b = static_cast<size_t>(quantized.block_of(row, first));
      const float scale = quantized.scale[b] * quantized.post_scale;
      const float inverse = scale != 0 ? 1 / scale : 0;
      const float offset = quantized.offset.empty() ? 0.0f : quantized.offset[b];
      const float zero = quantized.zero_point.empty() ? 0.0f : quantized.zero_point[b];
      const int64_t end = std::min(quantized.cols, first + width);
      for (int64_t c = first; c < end; ++c) {
        const int64_t column = order.empty() ? c : order[static_cast<size_t>(c)];
        const float target = scale != 0 ? (exact[column] - offset) * inverse + zero : 0.0f;
        out[column] = (nearest.Of(target) - zero) * scale + offset;
      }
    }
  });
}

}  // namespace

OutputErrors OutputErrorsOf(const TensorView& weight, const QuantizedTensor& quantized,
                            std::span<const float> inputs) {
  const Comparison comparison(weight, inputs);
  return {ErrorOf(comparison, quantized), RoundingErrorOf(comparison, quantized)};
}

double OutputError(const TensorView& weight, const QuantizedTensor& quantized,
                   std::span<const float> inputs) {
  return ErrorOf(Comparison(weight, inputs), quantized);
}

}  // namespace quantd

#include "quantizers/output_error.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "core/float_buffer.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

double SumOfSquares(std::span<const float> values) {
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

// What rounding to nearest makes of a matrix, with the grid and the scales of a quantized one.
class RoundedRows {
 public:
  explicit RoundedRows(const QuantizedTensor& quantized)
      : quantized_(quantized),
        nearest_(quantized.grid),
        width_(quantized.block.flat || quantized.block.strided ? 1
               : quantized.block.cols > 0                      ? quantized.block.cols
                                                               : quantized.cols) {}

  // Whether there is such a matrix.
  static bool Exists(const QuantizedTensor& quantized) {
    const InputTransform& input = quantized.input;
    return quantized.grid.kind != Grid::Kind::kCodebook && quantized.grid.bits <= 8 &&
           input.channel_scale.empty() && input.hadamard_size <= 1 && !quantized.unquantized;
  }

  // Row `row` of it, from that row of the source.
  void Fill(int64_t row, const float* exact, float* out) const {
    const std::vector<int32_t>& order = quantized_.input.permutation;
    for (int64_t first = 0; first < quantized_.cols; first += width_) {
      const auto b = static_cast<size_t>(quantized_.block_of(row, first));
      const float scale = quantized_.scale[b] * quantized_.post_scale;
      const float inverse = scale != 0 ? 1 / scale : 0;
      const float offset = quantized_.offset.empty() ? 0.0f : quantized_.offset[b];
      const float zero = quantized_.zero_point.empty() ? 0.0f : quantized_.zero_point[b];
      const int64_t end = std::min(quantized_.cols, first + width_);
      for (int64_t c = first; c < end; ++c) {
        const int64_t column = order.empty() ? c : order[static_cast<size_t>(c)];
        const float target = scale != 0 ? (exact[column] - offset) * inverse + zero : 0.0f;
        out[column] = (nearest_.Of(target) - zero) * scale + offset;
      }
    }
  }

 private:
  const QuantizedTensor& quantized_;
  const NearestValue nearest_;
  const int64_t width_;  // columns that surely share a scale
};

// Some rows of a matrix beside its source, on inputs.
class Comparison {
 public:
  Comparison(const TensorView& weight, std::span<const float> inputs, const StopRequest& stopped)
      : weight_(weight),
        inputs_(inputs),
        stopped_(stopped),
        rows_(weight.shape[0]),
        cols_(weight.shape[1]),
        slice_(std::clamp<int64_t>(kSliceElements / std::max<int64_t>(cols_, 1), 1, rows_)),
        exact_(static_cast<size_t>(slice_ * cols_)),
        difference_(exact_.size()) {}

  absl::StatusOr<OutputErrors> Run(const QuantizedTensor& quantized, bool with_rounding) {
    std::optional<RoundedRows> rounded;
    if (with_rounding && RoundedRows::Exists(quantized)) rounded.emplace(quantized);
    double energy = 0, quantized_energy = 0, rounded_energy = 0;
    for (int64_t first = 0; first < rows_; first += slice_) {
      const int64_t count = std::min(slice_, rows_ - first);
      ParallelFor(
          count, [&](int64_t i) { LoadFloats(weight_, (first + i) * cols_, cols_, Exact(i)); },
          kSecondsPerRow);
      RETURN_IF_ERROR(AddEnergy(exact_, count, energy));
      Subtract(first, count,
               [&](int64_t row, const float*, float* out) { PlainRows(quantized, row, 1, out); });
      RETURN_IF_ERROR(AddEnergy(difference_, count, quantized_energy));
      if (!rounded) continue;
      Subtract(first, count, [&](int64_t row, const float* exact, float* out) {
        rounded->Fill(row, exact, out);
      });
      RETURN_IF_ERROR(AddEnergy(difference_, count, rounded_energy));
    }
    const auto relative = [energy](double of) { return energy > 0 ? std::sqrt(of / energy) : 0; };
    return OutputErrors{relative(quantized_energy), rounded ? relative(rounded_energy) : -1};
  }

 private:
  static constexpr double kSecondsPerRow = 5e-6;               // about
  static constexpr double kSecondsPerMultiplication = 1e-11;   // the same
  static constexpr int64_t kSliceElements = int64_t{1} << 21;  // a tenth of a second's products

  float* Exact(int64_t i) { return exact_.data() + i * cols_; }

  // The slice's differences: approximate(row, exact, out) fills one row.
  template <class Approximate>
  void Subtract(int64_t first, int64_t count, const Approximate& approximate) {
    const auto fill = [&](int64_t i) {
      float* out = difference_.data() + i * cols_;
      approximate(first + i, Exact(i), out);
      for (int64_t c = 0; c < cols_; ++c) out[c] -= Exact(i)[c];
    };
    ParallelFor(count, fill, kSecondsPerRow);
  }

  // Adds |X D^T|^2 for the `count` rows of D.
  absl::Status AddEnergy(const FloatBuffer& matrix, int64_t count, double& energy) {
    RETURN_IF_ERROR(CheckStopped(stopped_));
    constexpr int64_t kRows = 256;  // of a task
    const int64_t tokens = static_cast<int64_t>(inputs_.size()) / cols_;
    std::vector<double> sums(static_cast<size_t>((count + kRows - 1) / kRows));
    const auto add = [&](int64_t task) {
      const int64_t first = task * kRows, rows = std::min(kRows, count - first);
      thread_local FloatBuffer outputs;
      outputs.assign(static_cast<size_t>(tokens * rows), 0.0f);
      AddMatrixProduct(tokens, rows, cols_, {inputs_.data(), cols_, 1},
                       MatrixOperand{matrix.data() + first * cols_, cols_, 1}.Transposed(),
                       outputs.data(), rows);
      sums[static_cast<size_t>(task)] = SumOfSquares(outputs);
    };
    ParallelFor(static_cast<int64_t>(sums.size()), add,
                static_cast<double>(tokens * kRows * cols_) * kSecondsPerMultiplication);
    energy = std::accumulate(sums.begin(), sums.end(), energy);
    return absl::OkStatus();
  }

  const TensorView& weight_;
  const std::span<const float> inputs_;
  const StopRequest& stopped_;
  const int64_t rows_, cols_, slice_;
  FloatBuffer exact_, difference_;
};

}  // namespace

absl::StatusOr<OutputErrors> OutputErrorsOf(const TensorView& weight,
                                            const QuantizedTensor& quantized,
                                            std::span<const float> inputs,
                                            const StopRequest& stopped) {
  return Comparison(weight, inputs, stopped).Run(quantized, /*with_rounding=*/true);
}

absl::StatusOr<double> OutputError(const TensorView& weight, const QuantizedTensor& quantized,
                                   std::span<const float> inputs, const StopRequest& stopped) {
  ASSIGN_OR_RETURN(const OutputErrors errors,
                   Comparison(weight, inputs, stopped).Run(quantized, /*with_rounding=*/false));
  return errors.quantized;
}

}  // namespace quantd

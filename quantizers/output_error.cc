#include "quantizers/output_error.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

double SumOfSquares(const std::vector<float>& values) {
  double sum = 0;
  for (const float v : values) sum += static_cast<double>(v) * v;
  return sum;
}

// |X D^T|^2 for D [rows, cols].
double OutputEnergy(const std::vector<float>& matrix, int64_t rows, int64_t cols,
                    std::span<const float> inputs) {
  const int64_t tokens = static_cast<int64_t>(inputs.size()) / cols;
  std::vector<float> outputs(static_cast<size_t>(tokens * rows));
  AddMatrixProduct(tokens, rows, cols, {inputs.data(), cols, 1},
                   MatrixOperand{matrix.data(), cols, 1}.Transposed(), outputs.data(), rows);
  return SumOfSquares(outputs);
}

// The error of `approximate(row, values)`, which fills one row.
template <class Approximate>
double ErrorOf(const TensorView& weight, std::span<const float> inputs,
               const Approximate& approximate) {
  const int64_t rows = weight.shape[0], cols = weight.shape[1];
  std::vector<float> exact(static_cast<size_t>(rows * cols)), difference(exact.size());
  ParallelFor(rows, [&](int64_t row) {
    float* w = exact.data() + row * cols;
    float* d = difference.data() + row * cols;
    LoadFloats(weight, row * cols, cols, w);
    approximate(row, d);
    for (int64_t c = 0; c < cols; ++c) d[c] -= w[c];
  });
  const double energy = OutputEnergy(exact, rows, cols, inputs);
  return energy > 0 ? std::sqrt(OutputEnergy(difference, rows, cols, inputs) / energy) : 0;
}

std::vector<float> GridValues(const Grid& grid) {
  if (grid.kind == Grid::Kind::kTable) return grid.table;
  std::vector<float> values;
  for (int code = 0; code < 1 << grid.bits; ++code) {
    values.push_back(static_cast<float>(code + grid.first));
  }
  return values;
}

}  // namespace

double OutputError(const TensorView& weight, const QuantizedTensor& quantized,
                   std::span<const float> inputs) {
  return ErrorOf(weight, inputs,
                 [&](int64_t row, float* out) { PlainRows(quantized, row, 1, out); });
}

double RoundingOutputError(const TensorView& weight, const QuantizedTensor& quantized,
                           std::span<const float> inputs) {
  const InputTransform& input = quantized.input;
  if (quantized.grid.kind == Grid::Kind::kCodebook || quantized.grid.bits > 8 ||
      !input.channel_scale.empty() || input.hadamard_size > 1 || quantized.unquantized) {
    return -1;
  }
  std::vector<float> grid = GridValues(quantized.grid);
  std::erase_if(grid, [](float v) { return !std::isfinite(v); });
  std::sort(grid.begin(), grid.end());
  const std::vector<int32_t>& order = input.permutation;
  return ErrorOf(weight, inputs, [&](int64_t row, float* out) {
    std::vector<float> values(static_cast<size_t>(quantized.cols));
    LoadFloats(weight, row * quantized.cols, quantized.cols, values.data());
    for (int64_t c = 0; c < quantized.cols; ++c) {
      const int64_t column = order.empty() ? c : order[static_cast<size_t>(c)];
      const auto b = static_cast<size_t>(quantized.block_of(row, c));
      const float scale = quantized.scale[b] * quantized.post_scale;
      const float offset = quantized.offset.empty() ? 0.0f : quantized.offset[b];
      const float zero = quantized.zero_point.empty() ? 0.0f : quantized.zero_point[b];
      const float target = scale != 0 ? (values[column] - offset) / scale + zero : 0.0f;
      auto above = std::lower_bound(grid.begin(), grid.end(), target);
      if (above == grid.end()) --above;
      if (above != grid.begin() && target - above[-1] <= *above - target) --above;
      out[column] = (*above - zero) * scale + offset;
    }
  });
}

}  // namespace quantd

#include "models/input_transform.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "core/float_types.h"
#include "core/hadamard.h"
#include "core/parallel.h"

namespace quantd {
namespace {

// Where each block of columns goes when the permutation moves blocks as a whole; nullopt when it
// mixes them.
std::optional<std::vector<int64_t>> BlockMoves(const QuantizedTensor& tensor) {
  const int64_t width = tensor.block.cols > 0 ? tensor.block.cols : tensor.cols;
  if (tensor.cols % width != 0) return std::nullopt;
  std::vector<int64_t> target(tensor.block_columns());
  for (int64_t block = 0; block < tensor.block_columns(); ++block) {
    target[block] = tensor.input.permutation[block * width] / width;
    for (int64_t c = block * width; c < (block + 1) * width; ++c) {
      if (tensor.input.permutation[c] / width != target[block]) return std::nullopt;
    }
  }
  return target;
}

template <class T>
void ScatterColumns(std::vector<T>& values, int64_t width, const auto& target) {
  if (values.empty()) return;
  std::vector<T> line(width);
  for (size_t begin = 0; begin < values.size(); begin += width) {
    for (int64_t c = 0; c < width; ++c) line[target[c]] = values[begin + c];
    std::copy(line.begin(), line.end(), values.begin() + begin);
  }
}

// Codes of single elements in tiles: columns can change places.
bool HasMovableColumns(const QuantizedTensor& tensor) {
  return tensor.grid.kind != Grid::Kind::kCodebook && !tensor.block.flat;
}

// The permutation keeps groups together that the inputs' order would tear apart (act-order), and
// the codes are all there is to the columns.
bool NeedsOrderedInputs(const QuantizedTensor& tensor) {
  return !tensor.input.permutation.empty() && HasMovableColumns(tensor) &&
         tensor.outliers.column.empty() && tensor.column_scale.empty() &&
         tensor.column_offset.empty() && !BlockMoves(tensor);
}

// Undoes the permutation in the codes; false when blocks would be torn apart.
bool UndoPermutation(QuantizedTensor& tensor) {
  if (!HasMovableColumns(tensor)) return false;
  const std::optional<std::vector<int64_t>> moves = BlockMoves(tensor);
  if (!moves) return false;
  const int64_t blocks = tensor.block_columns();
  ScatterColumns(tensor.codes, tensor.cols, tensor.input.permutation);
  ScatterColumns(tensor.scale, blocks, *moves);
  ScatterColumns(tensor.zero_point, blocks, *moves);
  ScatterColumns(tensor.offset, blocks, *moves);
  tensor.nested.reset();  // how the scales were stored no longer matters
  tensor.input.permutation.clear();
  return true;
}

Tensor Densify(const QuantizedTensor& tensor) {
  const InputTransform& input = tensor.input;
  const bool keeps_values =
      input.channel_scale.empty() && input.hadamard_size == 0 && tensor.outliers.column.empty();
  const DType dtype = keeps_values ? tensor.dequantized_dtype : DType::kF32;
  Tensor dense = MakeTensor(dtype, {tensor.rows, tensor.cols});
  ParallelFor(tensor.rows, [&](int64_t row) {
    std::vector<float> line(static_cast<size_t>(tensor.cols));
    PlainRows(tensor, row, 1, line.data());
    StoreFloats(dtype, line.data(), tensor.cols,
                dense.bytes.data() + row * tensor.cols * SizeOf(dtype));
  });
  return dense;
}

// Scales of columns (SINQ) are scales of the inputs, but for a rotation between the two.
void TakeColumnScale(QuantizedTensor& tensor) {
  InputTransform& input = tensor.input;
  if (tensor.column_scale.empty() || !tensor.column_offset.empty() || input.hadamard_size > 1 ||
      tensor.grid.kind == Grid::Kind::kCodebook || !tensor.outliers.column.empty()) {
    return;
  }
  input.channel_scale.resize(tensor.column_scale.size(), 1.0f);
  for (size_t c = 0; c < tensor.column_scale.size(); ++c) {
    input.channel_scale[c] /= tensor.column_scale[c];
  }
  tensor.column_scale.clear();
}

// A multiple of the Hadamard matrix is a step of the multiplication itself, by the fast transform;
// what it is a multiple by goes to the channel scales.
void PreferHadamard(int64_t cols, InputTransform& taken) {
  const int64_t size = taken.hadamard_size;
  const std::optional<float> factor = HadamardFactor(taken.rotation, size);
  if (!factor.has_value()) return;
  taken.rotation.clear();
  const float relative = *factor * std::sqrt(static_cast<float>(size));
  if (relative == 1) return;
  taken.channel_scale.resize(static_cast<size_t>(cols), 1.0f);
  for (float& scale : taken.channel_scale) scale /= relative;
}

}  // namespace

InputTransform TakeTransform(const PackOptions& options, Weight& weight) {
  InputTransform taken;
  auto* quantized = std::get_if<QuantizedTensor>(&weight);
  if (quantized == nullptr) return taken;
  InputTransform& input = quantized->input;
  taken.int8_tokens = input.int8_tokens;
  if (options.round_inputs) taken.rounding = input.rounding;
  taken.norm_weight = input.norm_weight;
  taken.norm_epsilon = input.norm_weight.empty() ? 0.0f : input.norm_epsilon;
  const bool rounds_rotated = taken.rounding.any() && !input.rotation.empty();
  if ((options.compute == Compute::kExact && !rounds_rotated) || input.int8_tokens) return taken;
  TakeColumnScale(*quantized);
  if (NeedsOrderedInputs(*quantized)) std::swap(taken.permutation, input.permutation);
  std::swap(taken.channel_scale, input.channel_scale);
  std::swap(taken.hadamard_size, input.hadamard_size);
  std::swap(taken.rotation, input.rotation);
  if (taken.hadamard_size <= 1) taken.hadamard_size = 0;
  if (!taken.rounding.any()) PreferHadamard(quantized->cols, taken);
  return taken;
}

bool AreSame(const InputTransform& a, const InputTransform& b) {
  return a.permutation == b.permutation && a.channel_scale == b.channel_scale &&
         a.hadamard_size == b.hadamard_size && a.rotation == b.rotation &&
         a.norm_weight == b.norm_weight && a.norm_epsilon == b.norm_epsilon &&
         a.int8_tokens == b.int8_tokens && a.rounding == b.rounding;
}

Weight WithoutInputTransform(Weight weight) {
  auto* quantized = std::get_if<QuantizedTensor>(&weight);
  if (quantized == nullptr) return weight;
  const InputTransform& input = quantized->input;
  const bool only_permuted =
      input.channel_scale.empty() && input.hadamard_size <= 1 && quantized->outliers.column.empty();
  if (only_permuted && input.permutation.empty()) return weight;
  if (only_permuted && UndoPermutation(*quantized)) return weight;
  return Densify(*quantized);
}

}  // namespace quantd

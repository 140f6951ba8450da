#include "models/linear.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "models/parameters.h"

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

// Undoes the permutation in the codes; false when blocks would be torn apart.
bool UndoPermutation(QuantizedTensor& tensor) {
  if (tensor.grid.kind == Grid::Kind::kCodebook || tensor.block.flat) return false;
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

absl::StatusOr<std::unique_ptr<DeviceArray>> LoadBias(const ModelSource& source, Backend& backend,
                                                      const std::vector<Linear::Part>& parts) {
  std::vector<float> bias;
  bool any = false;
  for (const Linear::Part& part : parts) {
    const std::string name = absl::StrCat(part.module, ".bias");
    if (!source.Has(name)) {
      bias.resize(bias.size() + part.rows, 0.0f);
      continue;
    }
    any = true;
    ASSIGN_OR_RETURN(const std::vector<float> values, ReadVector(source, name, part.rows));
    bias.insert(bias.end(), values.begin(), values.end());
  }
  if (!any) return nullptr;
  return UploadRow(backend, bias);
}

}  // namespace

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

absl::StatusOr<std::unique_ptr<DeviceArray>> UploadRow(Backend& backend,
                                                       std::span<const float> values) {
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceArray> array,
                   backend.Allocate(1, static_cast<int64_t>(values.size())));
  RETURN_IF_ERROR(backend.Upload(values, *array));
  return array;
}

absl::StatusOr<Linear> Linear::Load(const ModelSource& source, Backend& backend,
                                    const std::vector<Part>& parts, int64_t cols,
                                    const PackOptions& options) {
  std::vector<Weight> weights;
  weights.reserve(parts.size());
  std::vector<const Weight*> pointers;
  for (const Part& part : parts) {
    ASSIGN_OR_RETURN(Weight weight,
                     ReadMatrix(source, absl::StrCat(part.module, ".weight"), part.rows, cols));
    weights.push_back(WithoutInputTransform(std::move(weight)));
    pointers.push_back(&weights.back());
  }
  Linear linear;
  for (const Part& part : parts) linear.modules_.push_back(part.module);
  ASSIGN_OR_RETURN(linear.weight_, backend.Pack(pointers, options));
  weights.clear();
  ASSIGN_OR_RETURN(linear.bias_, LoadBias(source, backend, parts));
  return linear;
}

absl::Status Linear::Apply(Backend& backend, LinearArgs args) const {
  args.weight = weight_.get();
  args.bias = bias_.get();
  if (observer_ != nullptr) RETURN_IF_ERROR(ShowInputs(backend, args));
  return backend.Linear(args);
}

absl::Status Linear::ShowInputs(Backend& backend, const LinearArgs& args) const {
  const int64_t cols = weight_->cols();
  const DeviceArray* x = args.x;
  std::unique_ptr<DeviceArray> normalized;
  if (args.norm.kind != Norm::Kind::kNone) {
    ASSIGN_OR_RETURN(normalized, backend.Allocate(args.tokens, cols));
    RETURN_IF_ERROR(backend.Normalize(*x, nullptr, args.norm, args.tokens, *normalized));
    x = normalized.get();
  }
  std::vector<float> rows(static_cast<size_t>(args.tokens * cols));
  RETURN_IF_ERROR(backend.Download(*x, 0, args.tokens, rows));
  observer_->Observe(modules_, rows, cols);
  return absl::OkStatus();
}

}  // namespace quantd

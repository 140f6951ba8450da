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
                                                      const std::vector<Linear::Part>& parts,
                                                      const std::vector<float>& scales) {
  std::vector<float> bias;
  bool any = false;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string name = absl::StrCat(parts[i].module, ".bias");
    if (!source.Has(name)) {
      bias.resize(bias.size() + parts[i].rows, 0.0f);
      continue;
    }
    any = true;
    ASSIGN_OR_RETURN(const std::vector<float> values, ReadVector(source, name, parts[i].rows));
    for (const float value : values) bias.push_back(value * scales[i]);
  }
  if (!any) return nullptr;
  return UploadRow(backend, bias);
}

// What a weight asks of its inputs beside what WithoutInputTransform undoes.
const InputTransform* InputOf(const Weight& weight) {
  const auto* quantized = std::get_if<QuantizedTensor>(&weight);
  const bool treated = quantized != nullptr &&
                       (quantized->input.int8_tokens || !quantized->input.norm_weight.empty());
  return treated ? &quantized->input : nullptr;
}

bool TakeSameInputs(const Weight& a, const Weight& b) {
  const InputTransform* left = InputOf(a);
  const InputTransform* right = InputOf(b);
  if (left == nullptr || right == nullptr) return left == right;
  return left->int8_tokens == right->int8_tokens && left->norm_weight == right->norm_weight &&
         (left->norm_weight.empty() || left->norm_epsilon == right->norm_epsilon);
}

// Makes `array` at least [rows, cols].
absl::Status Grow(Backend& backend, int64_t rows, int64_t cols,
                  std::unique_ptr<DeviceArray>& array) {
  if (array != nullptr && array->rows() >= rows && array->cols() == cols) return absl::OkStatus();
  ASSIGN_OR_RETURN(array, backend.Allocate(rows, cols));
  return absl::OkStatus();
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

absl::StatusOr<Linear::Piece> Linear::PackPiece(Backend& backend, std::vector<Weight> weights,
                                                const PackOptions& options) {
  Piece piece;
  if (const InputTransform* input = InputOf(weights.front())) {
    piece.int8_tokens = input->int8_tokens;
    piece.norm_epsilon = input->norm_epsilon;
    if (!input->norm_weight.empty()) {
      ASSIGN_OR_RETURN(piece.norm_weight, UploadRow(backend, input->norm_weight));
    }
  }
  std::vector<const Weight*> pointers;
  for (Weight& weight : weights) {
    weight = WithoutInputTransform(std::move(weight));
    pointers.push_back(&weight);
  }
  ASSIGN_OR_RETURN(piece.weight, backend.Pack(pointers, options));
  return piece;
}

absl::StatusOr<Linear> Linear::Load(const ModelSource& source, Backend& backend,
                                    const std::vector<Part>& parts, int64_t cols,
                                    const PackOptions& options) {
  Linear linear;
  std::vector<float> bias_scales;
  std::vector<Weight> run;  // parts of the next piece
  int64_t run_rows = 0;
  const auto finish_run = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(Piece piece, PackPiece(backend, std::move(run), options));
    piece.first_row = linear.rows_;
    linear.pieces_.push_back(std::move(piece));
    linear.rows_ += run_rows;
    run.clear();
    run_rows = 0;
    return absl::OkStatus();
  };
  for (const Part& part : parts) {
    ASSIGN_OR_RETURN(Weight weight,
                     ReadMatrix(source, absl::StrCat(part.module, ".weight"), part.rows, cols));
    const auto* quantized = std::get_if<QuantizedTensor>(&weight);
    bias_scales.push_back(quantized == nullptr ? 1.0f : quantized->bias_scale);
    if (!run.empty() && !TakeSameInputs(run.front(), weight)) RETURN_IF_ERROR(finish_run());
    run.push_back(std::move(weight));
    run_rows += part.rows;
  }
  RETURN_IF_ERROR(finish_run());
  for (const Part& part : parts) linear.modules_.push_back(part.module);
  ASSIGN_OR_RETURN(linear.bias_, LoadBias(source, backend, parts, bias_scales));
  return linear;
}

absl::Status Linear::Apply(Backend& backend, LinearArgs args) const {
  if (observer_ != nullptr) RETURN_IF_ERROR(ShowInputs(backend, args));
  const Piece& only = pieces_.front();
  if (pieces_.size() > 1 || only.norm_weight != nullptr) return ApplyPiecewise(backend, args);
  args.weight = only.weight.get();
  args.bias = bias_.get();
  args.int8_tokens = only.int8_tokens;
  return backend.Linear(args);
}

absl::Status Linear::ShowInputs(Backend& backend, const LinearArgs& args) const {
  const int64_t cols = args.x->cols();
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

absl::Status Linear::ApplyPiecewise(Backend& backend, const LinearArgs& args) const {
  const int64_t height = args.x->rows();
  const DeviceArray* x = args.x;
  if (args.norm.kind != Norm::Kind::kNone) {
    RETURN_IF_ERROR(Grow(backend, height, x->cols(), normed_));
    RETURN_IF_ERROR(backend.Normalize(*x, nullptr, args.norm, args.tokens, *normed_));
    x = normed_.get();
  }
  const bool pairs = args.activation == Activation::kSiluMul;
  if (pairs && args.residual != nullptr) {
    return absl::UnimplementedError("a residual after gate and up of different inputs");
  }
  if (pairs) RETURN_IF_ERROR(Grow(backend, height, rows_, stacked_));
  for (const Piece& piece : pieces_) {
    LinearArgs part = {.weight = piece.weight.get(),
                       .bias = bias_.get(),
                       .int8_tokens = piece.int8_tokens,
                       .x = x,
                       .tokens = args.tokens,
                       .activation = pairs ? Activation::kNone : args.activation,
                       .residual = args.residual,
                       .y = pairs ? stacked_.get() : args.y,
                       .first_row = piece.first_row,
                       .stack_rows = rows_};
    if (piece.norm_weight != nullptr) {
      part.norm = {.kind = Norm::Kind::kRms,
                   .weight = piece.norm_weight.get(),
                   .epsilon = piece.norm_epsilon};
    }
    RETURN_IF_ERROR(backend.Linear(part));
  }
  return pairs ? backend.SiluMul(*stacked_, args.tokens, *args.y) : absl::OkStatus();
}

}  // namespace quantd

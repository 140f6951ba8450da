#include "models/linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "models/input_transform.h"
#include "models/parameters.h"

namespace quantd {
namespace {

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

// The float with the fewest significant bits whose reciprocal is `factor`: scales by which an
// ecosystem divides are short (bfloat16), and come here as factors.
float DivisorOf(float factor) {
  const float nearest = 1.0f / factor;
  for (uint32_t dropped = 0xffff; dropped > 0; dropped >>= 1) {
    uint32_t bits;
    std::memcpy(&bits, &nearest, sizeof bits);
    bits = (bits + dropped / 2 + 1) & ~dropped;
    float divisor;
    std::memcpy(&divisor, &bits, sizeof divisor);
    if (1.0f / divisor == factor) return divisor;
  }
  return nearest;
}

// For exact compute with int8 inputs: products of whole numbers, whose sums are exact in float32
// whatever their order, are scaled at last, as upstream does. One rounding more or less would move
// some input of the next layer to another of its 127 steps. Leaves the whole numbers in `weight`
// and returns what their sums are divided by; nullopt where the weight is more than scaled codes.
std::optional<float> TakeScale(const PackOptions& options, Weight& weight) {
  auto* t = std::get_if<QuantizedTensor>(&weight);
  if (t == nullptr || options.compute != Compute::kExact || !t->input.int8_tokens ||
      t->grid.kind != Grid::Kind::kUniform || t->block_count() != 1 || !t->zero_point.empty() ||
      !t->offset.empty() || !t->outliers.column.empty() || !t->input.permutation.empty() ||
      !t->input.channel_scale.empty() || t->input.hadamard_size > 1) {
    return std::nullopt;
  }
  const float factor = t->scale[0] * t->post_scale;
  if (!(factor > 0) || !std::isfinite(1.0f / factor)) return std::nullopt;
  t->scale = {1.0f};
  t->post_scale = 1.0f;
  t->nested.reset();
  t->dequantized_dtype = DType::kF32;
  return DivisorOf(factor);
}

// Exact compute takes as they are what upstream does not round where it is loaded as float32: the
// sums of a codebook's vectors, which are halves only because its parameters are, and what takes
// the model's dtype.
void KeepFloat32(const PackOptions& options, Weight& weight) {
  auto* t = std::get_if<QuantizedTensor>(&weight);
  if (t == nullptr || options.compute != Compute::kExact) return;
  const bool sums = t->grid.kind == Grid::Kind::kCodebook && t->rounds_each_step;
  if (sums || t->follows_loaded_dtype) t->dequantized_dtype = DType::kF32;
}

// Makes `array` at least [rows, cols].
absl::Status Grow(Backend& backend, int64_t rows, int64_t cols,
                  std::unique_ptr<DeviceArray>& array) {
  if (array != nullptr && array->rows() >= rows && array->cols() == cols) return absl::OkStatus();
  ASSIGN_OR_RETURN(array, backend.Allocate(rows, cols));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceArray>> UploadRow(Backend& backend,
                                                       std::span<const float> values) {
  ASSIGN_OR_RETURN(std::unique_ptr<DeviceArray> array,
                   backend.Allocate(1, static_cast<int64_t>(values.size())));
  RETURN_IF_ERROR(backend.Upload(values, *array));
  return array;
}

absl::StatusOr<Linear::Piece> Linear::PackPiece(Backend& backend, const InputTransform& input,
                                                std::vector<Weight> weights,
                                                const PackOptions& options) {
  Piece piece;
  piece.int8_tokens = input.int8_tokens;
  piece.rounding = input.rounding;
  if (input.rotation.empty()) {
    piece.hadamard_size = input.hadamard_size;
  } else {
    ASSIGN_OR_RETURN(piece.rotation, backend.Allocate(input.hadamard_size, input.hadamard_size));
    RETURN_IF_ERROR(backend.Upload(input.rotation, *piece.rotation));
  }
  piece.norm_epsilon = input.norm_epsilon;
  if (!input.norm_weight.empty()) {
    ASSIGN_OR_RETURN(piece.norm_weight, UploadRow(backend, input.norm_weight));
  }
  if (!input.channel_scale.empty()) {
    std::vector<float> multiplier = input.channel_scale;
    for (float& value : multiplier) value = 1.0f / value;
    ASSIGN_OR_RETURN(piece.multiplier, UploadRow(backend, multiplier));
  }
  if (!input.permutation.empty()) {
    ASSIGN_OR_RETURN(piece.order, backend.UploadOrder(input.permutation));
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
  std::vector<float> divisors;  // of all rows, where sums are divided
  std::vector<Weight> run;      // parts of the next piece
  InputTransform run_input;
  bool run_counts = false;
  int64_t run_rows = 0;
  const auto finish_run = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(Piece piece, PackPiece(backend, run_input, std::exchange(run, {}), options));
    piece.first_row = linear.rows_;
    piece.int8_counts = run_counts;
    linear.pieces_.push_back(std::move(piece));
    linear.rows_ += run_rows;
    run_rows = 0;
    return absl::OkStatus();
  };
  for (const Part& part : parts) {
    ASSIGN_OR_RETURN(Weight weight,
                     ReadMatrix(source, absl::StrCat(part.module, ".weight"), part.rows, cols));
    const auto* quantized = std::get_if<QuantizedTensor>(&weight);
    bias_scales.push_back(quantized == nullptr ? 1.0f : quantized->bias_scale);
    KeepFloat32(options, weight);
    const std::optional<float> divisor = TakeScale(options, weight);
    InputTransform input = TakeTransform(options, weight);
    divisors.insert(divisors.end(), static_cast<size_t>(part.rows), divisor.value_or(1.0f));
    if (!run.empty() && !(AreSame(run_input, input) && run_counts == divisor.has_value())) {
      RETURN_IF_ERROR(finish_run());
    }
    run_input = std::move(input);
    run_counts = divisor.has_value();
    run.push_back(std::move(weight));
    run_rows += part.rows;
  }
  RETURN_IF_ERROR(finish_run());
  const auto counts = [](const Piece& piece) { return piece.int8_counts; };
  if (std::any_of(linear.pieces_.begin(), linear.pieces_.end(), counts)) {
    ASSIGN_OR_RETURN(linear.int8_divisor_, UploadRow(backend, divisors));
  }
  for (const Part& part : parts) linear.modules_.push_back(part.module);
  ASSIGN_OR_RETURN(linear.bias_, LoadBias(source, backend, parts, bias_scales));
  return linear;
}

absl::Status NoInputRounding() {
  return absl::FailedPreconditionError(
      "quantize_activations: the checkpoint does not quantize the inputs of its linear layers, "
      "lacks their static scales, or does it in a way that is not supported; load it without");
}

bool Linear::rounds_inputs() const {
  return std::any_of(pieces_.begin(), pieces_.end(),
                     [](const Piece& piece) { return piece.rounding.any(); });
}

absl::Status Linear::Apply(Backend& backend, LinearArgs args) const {
  if (observer_ != nullptr) RETURN_IF_ERROR(ShowInputs(backend, args));
  const Piece& only = pieces_.front();
  if (pieces_.size() > 1 || only.norm_weight != nullptr) return ApplyPiecewise(backend, args);
  if (only.rounding.any() || only.rotation != nullptr) return ApplyRounded(backend, args);
  args.weight = only.weight.get();
  args.bias = bias_.get();
  args.steps = StepsOf(only);
  return backend.Linear(args);
}

InputSteps Linear::StepsOf(const Piece& piece) const {
  return {.multiplier = piece.multiplier.get(),
          .hadamard_size = piece.hadamard_size,
          .order = piece.order.get(),
          .int8_tokens = piece.int8_tokens,
          .int8_divisor = piece.int8_counts ? int8_divisor_.get() : nullptr};
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

absl::StatusOr<const DeviceArray*> Linear::Normed(Backend& backend, const LinearArgs& args) const {
  if (args.norm.kind == Norm::Kind::kNone) return args.x;
  RETURN_IF_ERROR(Grow(backend, args.x->rows(), args.x->cols(), normed_));
  RETURN_IF_ERROR(backend.Normalize(*args.x, nullptr, args.norm, args.tokens, *normed_));
  return normed_.get();
}

absl::StatusOr<const DeviceArray*> Linear::Rounded(Backend& backend, const Piece& piece,
                                                   const DeviceArray* x,
                                                   const LinearArgs& args) const {
  if (piece.rotation != nullptr) {
    RETURN_IF_ERROR(Grow(backend, x->rows(), x->cols(), rotated_));
    RETURN_IF_ERROR(backend.RotateInputs(*x, *piece.rotation, args.tokens, *rotated_));
    x = rotated_.get();
  }
  if (!piece.rounding.any()) return x;
  RETURN_IF_ERROR(Grow(backend, x->rows(), x->cols(), rounded_));
  RETURN_IF_ERROR(backend.RoundInputs(*x, piece.rounding, args.tokens, *rounded_));
  return rounded_.get();
}

absl::Status Linear::ApplyRounded(Backend& backend, const LinearArgs& args) const {
  const Piece& only = pieces_.front();
  LinearArgs rounded = args;
  ASSIGN_OR_RETURN(const DeviceArray* x, Normed(backend, args));
  ASSIGN_OR_RETURN(rounded.x, Rounded(backend, only, x, args));
  rounded.norm = {};
  rounded.weight = only.weight.get();
  rounded.bias = bias_.get();
  rounded.steps = StepsOf(only);
  return backend.Linear(rounded);
}

absl::Status Linear::ApplyPiecewise(Backend& backend, const LinearArgs& args) const {
  const int64_t height = args.x->rows();
  ASSIGN_OR_RETURN(const DeviceArray* x, Normed(backend, args));
  const bool pairs = args.activation == Activation::kSiluMul;
  if (pairs && args.residual != nullptr) {
    return absl::UnimplementedError("a residual after gate and up of different inputs");
  }
  if (pairs) RETURN_IF_ERROR(Grow(backend, height, rows_, stacked_));
  for (const Piece& piece : pieces_) {
    ASSIGN_OR_RETURN(const DeviceArray* inputs, Rounded(backend, piece, x, args));
    LinearArgs part = {.weight = piece.weight.get(),
                       .bias = bias_.get(),
                       .steps = StepsOf(piece),
                       .x = inputs,
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

#include "quantizers/codecs/fp8.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

// Spellings found in checkpoints besides the one that is written.
constexpr const char* kOtherScaleNames[] = {"weight_scale_inv", "scale", "qscale_weight"};
// Scales of activations, which are written again as they are.
constexpr char kInputScale[] = "activation_scale";
constexpr const char* kTravellers[] = {kInputScale, "input_scale_ub"};

constexpr char kScaleName[] = "fp8.scale_name";
constexpr char kScaleDType[] = "fp8.scale_dtype";
constexpr char kScaleRank[] = "fp8.scale_rank";

Shape ScaleShape(const QuantizedTensor& weight) {
  return {weight.block_count() / weight.block_columns(), weight.block_columns()};
}

// Exponent bytes of powers of two.
std::vector<uint8_t> Exponents(const std::vector<float>& scales) {
  std::vector<uint8_t> bytes;
  bytes.reserve(scales.size());
  for (const float scale : scales) bytes.push_back(static_cast<uint8_t>(127 + std::ilogb(scale)));
  return bytes;
}

}  // namespace

Fp8Layout FineGrainedFp8Layout(const BlockShape& tile, bool power_of_two, DType model_dtype,
                               bool static_inputs) {
  Fp8Layout layout;
  layout.quant_method = "fp8";
  layout.tile = tile;
  layout.dequantized_dtype = InfoOf(model_dtype).is_float ? model_dtype : DType::kBF16;
  layout.follows_loaded_dtype = true;
  layout.scale_name = "weight_scale_inv";
  layout.scale_dtype = power_of_two ? DType::kF8E8M0 : DType::kF32;
  layout.inputs.values = InputRounding::Values::kE4M3;
  layout.inputs.dynamic = !static_inputs;
  layout.inputs.group = static_inputs ? 0 : tile.cols;
  return layout;
}

Fp8Layout FbgemmFp8Layout(double upper_bound) {
  Fp8Layout layout;
  layout.quant_method = "fbgemm_fp8";
  layout.tile = {.rows = 1, .cols = 0};
  layout.scale_name = "weight_scale";
  layout.inputs.values = InputRounding::Values::kE4M3;
  layout.inputs.dynamic = true;
  layout.inputs.upper_bound = static_cast<float>(upper_bound);
  layout.inputs.least_scale = 1.0f / (448.0f * 512.0f);
  layout.bias_dtype = DType::kF32;
  return layout;
}

void SetFp8InputScale(float scale, QuantizedTensor* weight) {
  weight->input.rounding = InputRounding{.values = InputRounding::Values::kE4M3, .scale = scale};
  KeepTensor(kInputScale, FloatTensor(DType::kF32, {}, {scale}), &weight->attributes);
}

// With the stored scale where there is one for all inputs; kNone where it is missing.
absl::StatusOr<InputRounding> Fp8Codec::DecodeInputs(const ModuleTensors& tensors) const {
  InputRounding inputs = layout_.inputs;
  if (inputs.dynamic || !inputs.any()) return inputs;
  if (!tensors.Has(kInputScale)) return InputRounding();
  ASSIGN_OR_RETURN(const std::vector<float> scale,
                   ReadFiniteFloats(tensors, kInputScale, {DType::kF32, DType::kBF16, DType::kF16},
                                    std::nullopt));
  if (scale.size() != 1 || scale[0] <= 0) {
    return TensorError(tensors, kInputScale, "expected one positive number");
  }
  inputs.scale = scale[0];
  return inputs;
}

std::string Fp8Codec::FindScale(const ModuleTensors& tensors) const {
  if (tensors.Has(layout_.scale_name)) return std::string(layout_.scale_name);
  for (const char* name : kOtherScaleNames) {
    if (tensors.Has(name)) return name;
  }
  return "";
}

bool Fp8Codec::IsQuantized(const ModuleTensors& tensors) const {
  const auto weight = tensors.Describe("weight");
  if (!weight.ok()) return false;
  return weight->dtype == DType::kF8E4M3 || weight->dtype == DType::kF8E5M2 ||
         weight->dtype == DType::kI8 || tensors.Has(layout_.scale_name);
}

std::vector<std::string> Fp8Codec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names = {"weight"};
  const std::string scale = FindScale(tensors);
  if (!scale.empty()) names.push_back(scale);
  for (const char* name : kTravellers) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> Fp8Codec::MatrixShape(const ModuleTensors& tensors) const {
  return ReadMatrixShape(tensors, "weight");
}

absl::Status Fp8Codec::DecodeScales(const ModuleTensors& tensors, QuantizedTensor* out) const {
  const std::string name = FindScale(tensors);
  if (name.empty()) {
    return TensorError(tensors, layout_.scale_name,
                       "the tensor is missing; an fp8 weight cannot be read without its scales");
  }
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
  // One scale for the matrix is a scalar in some files.
  Shape shape = ScaleShape(*out);
  if (out->block_count() == 1 && NumElements(stored.shape) == 1 && stored.shape.size() < 2) {
    shape = stored.shape;
    out->attributes[kScaleRank] = absl::StrCat(shape.size());
  }
  out->scale_dtype = stored.dtype;
  if (stored.dtype == DType::kU8 || stored.dtype == DType::kF8E8M0) {
    ASSIGN_OR_RETURN(const Tensor bytes,
                     ReadTensor(tensors, name, {DType::kU8, DType::kF8E8M0}, shape));
    for (const uint8_t byte : Elements<uint8_t>(bytes)) {
      if (byte == 255) return TensorError(tensors, name, "an exponent byte is 255 (NaN)");
      out->scale.push_back(FloatFromE8M0(byte));
    }
    out->scale_dtype = DType::kF8E8M0;
  } else {
    ASSIGN_OR_RETURN(out->scale, ReadFiniteFloats(tensors, name,
                                                  {DType::kF32, DType::kBF16, DType::kF16}, shape));
  }
  out->attributes[kScaleName] = name;
  out->attributes[kScaleDType] = std::string(InfoOf(stored.dtype).safetensors_name);
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> Fp8Codec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  ASSIGN_OR_RETURN(const Tensor weight, ReadTensor(tensors, "weight", {DType::kF8E4M3}, shape));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.dequantized_dtype = layout_.dequantized_dtype;
  out.follows_loaded_dtype = layout_.follows_loaded_dtype;
  out.grid = E4M3Grid();
  out.block = layout_.tile;
  RETURN_IF_ERROR(DecodeScales(tensors, &out));
  out.codes = Elements<uint8_t>(weight);
  const auto nan = std::find_if(out.codes.begin(), out.codes.end(),
                                [](uint8_t code) { return (code & 0x7f) == 0x7f; });
  if (nan != out.codes.end()) {
    return TensorError(tensors, "weight",
                       absl::StrCat("element ", nan - out.codes.begin(), " is NaN"));
  }
  for (const char* name : kTravellers) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const TensorView traveller, tensors.Describe(name));
    if (NumElements(traveller.shape) != 1) return TensorError(tensors, name, "expected one number");
    ASSIGN_OR_RETURN(const Tensor value, tensors.Read(name));
    KeepTensor(name, value, &out.attributes);
  }
  ASSIGN_OR_RETURN(out.input.rounding, DecodeInputs(tensors));
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> Fp8Codec::Encode(const QuantizedTensor& weight) const {
  if (!weight.grid.is_e4m3) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a matrix that was not quantized to float8_e4m3fn cannot be written as ", quant_method()));
  }
  std::string name = Attribute(weight, kScaleName);
  if (name.empty()) name = std::string(layout_.scale_name);
  const DType dtype =
      DTypeFromSafetensors(Attribute(weight, kScaleDType)).value_or(layout_.scale_dtype);
  Shape shape = ScaleShape(weight);
  const std::string rank = Attribute(weight, kScaleRank);
  if (rank == "0") shape = {};
  if (rank == "1") shape = {1};
  const bool exponents = dtype == DType::kU8 || dtype == DType::kF8E8M0;
  std::vector<NamedTensor> out;
  out.push_back({"weight", CodeTensor(DType::kF8E4M3, {weight.rows, weight.cols}, weight.codes)});
  out.push_back({name, exponents ? TensorOf<uint8_t>(dtype, shape, Exponents(weight.scale))
                                 : FloatTensor(dtype, shape, weight.scale)});
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd

#include "quantizers/codecs/quanto.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/row_slices.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

constexpr char kBytes[] = "weight._data";
constexpr char kPacked[] = "weight._data._data";
constexpr char kScale[] = "weight._scale";
constexpr char kShift[] = "weight._shift";
// Scales of activations: they travel with the weight.
constexpr const char* kTravellers[] = {"input_scale", "output_scale"};

constexpr char kType[] = "quanto.type";
constexpr char kScaleRank[] = "quanto.scale_rank";
constexpr char kIntegerShift[] = "quanto.integer_shift";

Grid GridOf(const QuantoType& type) {
  switch (type.dtype) {
    case DType::kF8E4M3:
      return E4M3Grid();
    case DType::kF8E4M3FNUZ:
      return E4M3FNUZGrid();
    case DType::kF8E5M2:
      return E5M2Grid();
    default:
      return UniformGrid(type.bits, /*is_signed=*/type.bits == 8);
  }
}

bool IsFiniteCode(DType dtype, uint8_t code) {
  switch (dtype) {
    case DType::kF8E4M3:
      return (code & 0x7f) != 0x7f;
    case DType::kF8E4M3FNUZ:
      return code != 0x80;
    case DType::kF8E5M2:
      return (code & 0x7c) != 0x7c;
    default:
      return true;
  }
}

// Columns of a module's matrix after the model's dimensions; 0 when they are not known.
int64_t InputFeatures(absl::string_view module, const ModelConfig& model) {
  if (absl::EndsWith(module, "down_proj")) return model.intermediate_size;
  if (absl::EndsWith(module, "o_proj")) return model.num_attention_heads * model.head_dim;
  const bool feeds_back = model.is_encoder() && absl::EndsWith(module, ".output.dense") &&
                          !absl::EndsWith(module, ".attention.output.dense");
  return feeds_back ? model.intermediate_size : model.hidden_size;
}

absl::Status KeepTravellers(const ModuleTensors& tensors, QuantizedTensor* out) {
  for (const char* name : kTravellers) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const TensorView traveller, tensors.Describe(name));
    if (NumElements(traveller.shape) != 1) return TensorError(tensors, name, "expected one number");
    ASSIGN_OR_RETURN(const Tensor value, tensors.Read(name));
    KeepTensor(name, value, &out->attributes);
  }
  return absl::OkStatus();
}

// [R, 1], one for each row of the packed matrix before packing.
absl::StatusOr<int64_t> ScaleRows(const ModuleTensors& tensors) {
  if (!tensors.Has(kScale)) return TensorError(tensors, kScale, "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView scale, tensors.Describe(kScale));
  if (scale.shape.size() == 2 && scale.shape[0] > 0 && scale.shape[1] == 1) return scale.shape[0];
  return TensorError(
      tensors, kScale,
      absl::StrCat("found the shape ", ToString(scale.shape), ", expected [groups, 1]"));
}

}  // namespace

void MarkQuanto(const QuantoType& type, QuantizedTensor* weight) {
  weight->attributes[kType] = std::string(type.name);
  // One scale for a matrix of one row is a scalar.
  if (type.bits == 8 && weight->rows == 1) weight->attributes.emplace(kScaleRank, "0");
  for (const char* name : kTravellers) {
    KeepTensor(name, FloatTensor(weight->scale_dtype, {}, {1.0f}), &weight->attributes);
  }
}

const QuantoType* QuantoCodec::TypeOf(const ModuleTensors& tensors) const {
  if (!config_.modules) return config_.weights;
  const auto found = config_.modules->find(tensors.module());
  return found == config_.modules->end() ? nullptr : found->second;
}

bool QuantoCodec::IsQuantized(const ModuleTensors& tensors) const {
  for (const char* name : {kBytes, kPacked, kScale, kShift}) {
    if (tensors.Has(name)) return true;
  }
  // A map may name modules that were saved before their weights were frozen.
  return config_.modules && TypeOf(tensors) != nullptr && tensors.Has("weight");
}

std::vector<std::string> QuantoCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name :
       {"weight", kBytes, kPacked, kScale, kShift, "input_scale", "output_scale"}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<const QuantoType*> QuantoCodec::RequireType(const ModuleTensors& tensors) const {
  const QuantoType* type = TypeOf(tensors);
  if (type == nullptr) {
    return TensorError(tensors, kScale, "the quantization map does not list this module");
  }
  if (tensors.Has("weight")) {
    return TensorError(tensors, "weight",
                       absl::StrCat("found an unquantized weight, expected ", type->name,
                                    "; call quanto's freeze() before saving"));
  }
  return type;
}

absl::StatusOr<Shape> QuantoCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const QuantoType* type, RequireType(tensors));
  return type->bits == 8 ? ReadMatrixShape(tensors, kBytes) : PackedShape(tensors);
}

absl::StatusOr<Shape> QuantoCodec::PackedShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape packed, ReadMatrixShape(tensors, kPacked));
  ASSIGN_OR_RETURN(const int64_t groups, ScaleRows(tensors));
  const int64_t group = packed[1];
  Shape shape = {groups, group};
  RETURN_IF_ERROR(CheckMatrixShape(tensors, kPacked, shape));
  if (config_.shape) {
    shape = *config_.shape;
  } else if (const int64_t cols = InputFeatures(tensors.module(), model_); cols > 0) {
    shape = {groups * group / cols, cols};
  } else if (group <= 128 && group % 32 == 0) {
    return TensorError(tensors, kPacked,
                       absl::StrCat("rows of ", group,
                                    " may be groups of wider rows; add "
                                    "\"shape\": [out, in] to the quantization_config"));
  }
  const bool fits = shape[0] > 0 && shape[1] % group == 0 && shape[0] <= groups &&
                    shape[0] * (shape[1] / group) == groups;
  if (fits) return shape;
  return TensorError(
      tensors, kPacked,
      absl::StrCat("found ", groups, " groups of ", group, ", which do not make a matrix of ",
                   shape[1], " columns, as expected from the model's configuration"));
}

absl::StatusOr<QuantizedTensor> QuantoCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const QuantoType* type, RequireType(tensors));
  ASSIGN_OR_RETURN(QuantizedTensor out,
                   type->bits == 8 ? DecodeBytes(tensors, *type) : DecodePacked(tensors, *type));
  ASSIGN_OR_RETURN(const TensorView scale, tensors.Describe(kScale));
  out.scale_dtype = scale.dtype;
  out.dequantized_dtype = scale.dtype;
  out.attributes[kType] = std::string(type->name);
  RETURN_IF_ERROR(KeepTravellers(tensors, &out));
  return out;
}

absl::StatusOr<QuantizedTensor> QuantoCodec::DecodeBytes(const ModuleTensors& tensors,
                                                         const QuantoType& type) const {
  ASSIGN_OR_RETURN(const Shape shape, ReadMatrixShape(tensors, kBytes));
  ASSIGN_OR_RETURN(const Tensor data, ReadTensor(tensors, kBytes, {type.dtype}, shape));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = GridOf(type);
  const auto scale = tensors.Describe(kScale);
  const bool scalar = out.rows == 1 && scale.ok() && scale->shape.empty();
  if (scalar) out.attributes.emplace(kScaleRank, "0");
  ASSIGN_OR_RETURN(out.scale,
                   ReadFiniteFloats(tensors, kScale, {DType::kF32, DType::kF16, DType::kBF16},
                                    scalar ? Shape{} : Shape{out.rows, 1}));
  out.codes = Elements<uint8_t>(data);
  const auto bad = std::find_if(out.codes.begin(), out.codes.end(),
                                [&](uint8_t code) { return !IsFiniteCode(type.dtype, code); });
  if (bad != out.codes.end()) {
    return TensorError(tensors, kBytes,
                       absl::StrCat("element ", bad - out.codes.begin(), " is no finite number"));
  }
  if (type.dtype == DType::kI8) {
    for (uint8_t& code : out.codes) code ^= 0x80;  // two's complement to offset binary
  }
  return out;
}

absl::StatusOr<QuantizedTensor> QuantoCodec::DecodePacked(const ModuleTensors& tensors,
                                                          const QuantoType& type) const {
  ASSIGN_OR_RETURN(const Shape shape, PackedShape(tensors));
  ASSIGN_OR_RETURN(const int64_t groups, ScaleRows(tensors));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = GridOf(type);
  const int64_t group = shape[0] * shape[1] / groups;
  out.block.cols = group == out.cols ? 0 : group;
  const int64_t codes_per_byte = 8 / type.bits;
  ASSIGN_OR_RETURN(const Tensor packed,
                   ReadTensor(tensors, kPacked, {DType::kU8},
                              Shape{(groups + codes_per_byte - 1) / codes_per_byte, group}));
  ASSIGN_OR_RETURN(out.scale,
                   ReadFiniteFloats(tensors, kScale, {DType::kF32, DType::kF16, DType::kBF16},
                                    Shape{groups, 1}));
  ASSIGN_OR_RETURN(const TensorView scale, tensors.Describe(kScale));
  ASSIGN_OR_RETURN(std::vector<float> shift,
                   ReadFiniteFloats(tensors, kShift, {scale.dtype, DType::kU8}, Shape{groups, 1}));
  ASSIGN_OR_RETURN(const TensorView stored_shift, tensors.Describe(kShift));
  if (stored_shift.dtype == DType::kU8) {
    out.zero_point = std::move(shift);
    out.attributes.emplace(kIntegerShift, "true");
  } else {
    for (float& value : shift) value = -value;
    out.offset = std::move(shift);
    out.rounds_each_step = true;
  }
  out.codes = UnpackRowSlices(Elements<uint8_t>(packed), groups, group, type.bits);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> QuantoCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name, RequireAttribute(weight, kType, "quanto"));
  const QuantoType* type = FindQuantoType(name);
  if (type == nullptr) return absl::InvalidArgumentError("an unknown type of quanto");
  const int64_t groups = static_cast<int64_t>(weight.scale.size());
  std::vector<NamedTensor> out;
  if (type->bits == 8) {
    const int first = type->dtype == DType::kI8 ? -128 : 0;
    out.push_back(
        {kBytes, CodeTensor(type->dtype, {weight.rows, weight.cols}, weight.codes, first)});
    const bool scalar = Attribute(weight, kScaleRank) == "0";
    out.push_back({kScale, FloatTensor(weight.scale_dtype, scalar ? Shape{} : Shape{groups, 1},
                                       weight.scale)});
  } else {
    const int64_t group = weight.rows * weight.cols / groups;
    const std::vector<uint8_t> bytes = PackRowSlices(weight.codes, groups, group, type->bits);
    const Shape packed = {static_cast<int64_t>(bytes.size()) / group, group};
    out.push_back({kPacked, CodeTensor(DType::kU8, packed, bytes)});
    out.push_back({kScale, FloatTensor(weight.scale_dtype, {groups, 1}, weight.scale)});
    if (Attribute(weight, kIntegerShift).empty()) {
      std::vector<float> shift = weight.offset;
      for (float& value : shift) value = -value;
      out.push_back({kShift, FloatTensor(weight.scale_dtype, {groups, 1}, shift)});
    } else {
      const std::vector<uint8_t> shift(weight.zero_point.begin(), weight.zero_point.end());
      out.push_back({kShift, TensorOf<uint8_t>(DType::kU8, {groups, 1}, shift)});
    }
  }
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd

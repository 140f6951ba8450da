#include "quantizers/codecs/hqq.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/hqq_packing.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kBits[] = "hqq.nbits";
constexpr char kViewAsFloat[] = "hqq.view_as_float";

// Tensors with settings; those that files of older versions lack are optional.
constexpr const char* kSettings[] = {"nbits",
                                     "group_size",
                                     "axis",
                                     "shape",
                                     "packing",
                                     "quant_zero",
                                     "quant_scale",
                                     "optimize",
                                     "view_as_float",
                                     "compute_dtype",
                                     "round_zero",
                                     "channel_wise",
                                     "offload_meta",
                                     "unpack_view_dtype",
                                     "encoded_state_dict",
                                     "stores_quant_config"};

// A matrix of codes as hqq reshapes it before it packs.
struct Grouped {
  int64_t rows;
  int64_t cols;
};

Grouped GroupedShape(int64_t elements, int64_t group_size, int axis) {
  const int64_t groups = elements / group_size;
  return axis == 1 ? Grouped{groups, group_size} : Grouped{group_size, groups};
}

// The settings of a stored layer, each checked where it is read.
struct Settings {
  const HqqBits* bits = nullptr;
  int64_t group_size = 0;
  int axis = 1;
  Shape shape;
  bool view_as_float = false;
  DType compute_dtype = DType::kF16;

  Grouped grouped() const { return GroupedShape(NumElements(shape), group_size, axis); }
};

absl::StatusOr<int64_t> ReadInteger(const ModuleTensors& tensors, absl::string_view name,
                                    int64_t min, int64_t max) {
  ASSIGN_OR_RETURN(const Tensor tensor, ReadTensor(tensors, name, {DType::kI32}, Shape{}));
  const int64_t value = Elements<int32_t>(tensor)[0];
  if (value >= min && value <= max) return value;
  return TensorError(tensors, name, absl::StrCat("found ", value, ", expected ", min, " to ", max));
}

// A switch, `expected` when given.
absl::StatusOr<bool> ReadSwitch(const ModuleTensors& tensors, absl::string_view name,
                                std::optional<bool> expected) {
  if (!tensors.Has(name)) return expected.value_or(false);
  ASSIGN_OR_RETURN(const Tensor tensor, ReadTensor(tensors, name, {DType::kU8}, Shape{}));
  const int value = Elements<uint8_t>(tensor)[0];
  if (expected ? value == static_cast<int>(*expected) : value <= 1) return value == 1;
  return TensorError(
      tensors, name,
      absl::StrCat("found ", value, ", expected ", expected ? (*expected ? "1" : "0") : "0 or 1"));
}

absl::StatusOr<std::string> ReadText(const ModuleTensors& tensors, absl::string_view name) {
  constexpr int64_t kMaxText = 64;
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(name));
  if (view.shape.size() != 1 || view.shape[0] > kMaxText) {
    return TensorError(tensors, name, "expected a text of up to 64 characters");
  }
  ASSIGN_OR_RETURN(const Tensor tensor, ReadTensor(tensors, name, {DType::kU8}, view.shape));
  return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
}

// INVALID_ARGUMENT unless the text `name`, where there is one, is `expected`.
absl::Status RequireText(const ModuleTensors& tensors, absl::string_view name,
                         absl::string_view expected) {
  if (!tensors.Has(name)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::string found, ReadText(tensors, name));
  if (found == expected) return absl::OkStatus();
  return TensorError(
      tensors, name,
      absl::StrCat("found \"", absl::Utf8SafeCEscape(found), "\", expected \"", expected, "\""));
}

absl::StatusOr<const HqqBits*> ReadBits(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor tensor,
                   ReadTensor(tensors, "nbits", {DType::kI32, DType::kF32}, Shape{}));
  const float value = tensor.dtype == DType::kI32 ? static_cast<float>(Elements<int32_t>(tensor)[0])
                                                  : Elements<float>(tensor)[0];
  const HqqBits* bits = FindHqqBits(value);
  if (bits != nullptr) return bits;
  return TensorError(tensors, "nbits",
                     absl::StrCat("found ", value, ", expected 8, 6, 5, 4, 3, 2, 1.58 or 1"));
}

absl::StatusOr<DType> ReadComputeDType(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const TensorView scale, tensors.Describe("scale"));
  if (scale.dtype != DType::kF16 && scale.dtype != DType::kBF16 && scale.dtype != DType::kF32) {
    return TensorError(tensors, "scale", "expected F16, BF16 or F32");
  }
  const std::string name = absl::StrCat("torch.", InfoOf(scale.dtype).torch_name);
  RETURN_IF_ERROR(RequireText(tensors, "compute_dtype", name));
  return scale.dtype;
}

absl::StatusOr<Shape> ReadShape(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor tensor, ReadTensor(tensors, "shape", {DType::kI64}, Shape{2}));
  const Shape shape = Elements<int64_t>(tensor);
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "shape", shape));
  return shape;
}

// Whether the layer is what quantization_config says of it.
absl::Status CheckAgrees(const ModuleTensors& tensors, const HqqConfig& config,
                         const Settings& settings) {
  const HqqParameters* told = config.Find(tensors.module());
  if (told == nullptr) return absl::OkStatus();
  const auto differs = [&](absl::string_view name, const auto& found, const auto& expected) {
    return TensorError(tensors, name,
                       absl::StrCat("found ", found, ", but quantization_config says ", expected));
  };
  if (told->bits != settings.bits) {
    return differs("nbits", settings.bits->name, told->bits->name);
  }
  if (told->axis != settings.axis) return differs("axis", settings.axis, told->axis);
  const int64_t group = told->GroupSize(settings.shape[0], settings.shape[1]);
  if (group != settings.group_size) return differs("group_size", settings.group_size, group);
  return absl::OkStatus();
}

absl::StatusOr<Settings> ReadSettings(const ModuleTensors& tensors, const HqqConfig& config) {
  Settings settings;
  ASSIGN_OR_RETURN(settings.shape, ReadShape(tensors));
  ASSIGN_OR_RETURN(settings.bits, ReadBits(tensors));
  ASSIGN_OR_RETURN(const int64_t axis, ReadInteger(tensors, "axis", 0, 1));
  settings.axis = static_cast<int>(axis);
  ASSIGN_OR_RETURN(settings.group_size, ReadInteger(tensors, "group_size", 1, INT32_MAX));
  if (NumElements(settings.shape) % settings.group_size != 0) {
    return TensorError(tensors, "group_size",
                       absl::StrCat(settings.group_size, " does not divide the elements of ",
                                    ToString(settings.shape)));
  }
  RETURN_IF_ERROR(CheckAgrees(tensors, config, settings));
  for (const char* name : {"quant_zero", "quant_scale", "offload_meta"}) {
    RETURN_IF_ERROR(ReadSwitch(tensors, name, false).status());
  }
  for (const char* name : {"channel_wise", "encoded_state_dict"}) {
    RETURN_IF_ERROR(ReadSwitch(tensors, name, true).status());
  }
  ASSIGN_OR_RETURN(settings.view_as_float, ReadSwitch(tensors, "view_as_float", std::nullopt));
  ASSIGN_OR_RETURN(settings.compute_dtype, ReadComputeDType(tensors));
  const HqqPacking& packing = settings.bits->packing;
  RETURN_IF_ERROR(RequireText(tensors, "packing", packing.name));
  RETURN_IF_ERROR(RequireText(tensors, "unpack_view_dtype",
                              packing.word == DType::kI32 ? "torch.int32" : "torch.uint8"));
  if (packing.word != DType::kI32 && settings.grouped().rows % packing.per_word != 0) {
    return TensorError(tensors, "packing",
                       absl::StrCat(settings.grouped().rows, " rows of codes do not fill words of ",
                                    packing.per_word));
  }
  return settings;
}

// The shape that a tensor of words has when it is seen as floats.
Shape FloatView(const Shape& words, DType word, DType compute_dtype) {
  return {words[0], words[1] * SizeOf(word) / SizeOf(compute_dtype)};
}

absl::Status DecodeCodes(const ModuleTensors& tensors, const Settings& settings,
                         QuantizedTensor* out) {
  const HqqPacking& packing = settings.bits->packing;
  const Grouped grouped = settings.grouped();
  DType dtype = packing.word;
  Shape shape = {HqqWordRows(packing, grouped.rows), grouped.cols};
  if (settings.view_as_float) {
    shape = FloatView(shape, packing.word, settings.compute_dtype);
    dtype = settings.compute_dtype;
  }
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, "W_q", {dtype}, shape));
  if (words.bytes.size() != static_cast<size_t>(HqqWordRows(packing, grouped.rows) * grouped.cols *
                                                SizeOf(packing.word))) {
    return TensorError(tensors, "W_q", "its rows are no whole number of words");
  }
  if (!UnpackHqq(packing, words.bytes, grouped.rows, grouped.cols, &out->codes)) {
    return TensorError(tensors, "W_q", "bits that hold no code are set");
  }
  const int max_code = settings.bits->max_code;
  const auto large = std::find_if(out->codes.begin(), out->codes.end(),
                                  [max_code](uint8_t code) { return code > max_code; });
  if (large == out->codes.end()) return absl::OkStatus();
  return TensorError(tensors, "W_q",
                     absl::StrCat("code ", static_cast<int>(*large), " at element ",
                                  large - out->codes.begin(), " is above ", max_code));
}

absl::Status DecodeScales(const ModuleTensors& tensors, const Settings& settings,
                          QuantizedTensor* out) {
  const int64_t groups = NumElements(settings.shape) / settings.group_size;
  const Shape shape = settings.axis == 1 ? Shape{groups, 1} : Shape{1, groups};
  out->scale_dtype = settings.compute_dtype;
  ASSIGN_OR_RETURN(out->scale, ReadFiniteFloats(tensors, "scale", {settings.compute_dtype}, shape));
  ASSIGN_OR_RETURN(out->zero_point,
                   ReadFiniteFloats(tensors, "zero", {settings.compute_dtype}, shape));
  return absl::OkStatus();
}

Tensor Text(absl::string_view text) {
  return TensorOf<char>(DType::kU8, {static_cast<int64_t>(text.size())},
                        std::span<const char>(text.data(), text.size()));
}
Tensor Switch(bool value) {
  const uint8_t byte = value ? 1 : 0;
  return TensorOf<uint8_t>(DType::kU8, {}, std::span(&byte, 1));
}
Tensor Integer(int32_t value) { return TensorOf<int32_t>(DType::kI32, {}, std::span(&value, 1)); }
Tensor Bits(const HqqBits& bits) {
  if (bits.value == static_cast<float>(bits.bits)) return Integer(bits.bits);
  return TensorOf<float>(DType::kF32, {}, std::span(&bits.value, 1));
}

}  // namespace

void MarkHqq(const HqqParameters& parameters, QuantizedTensor* weight) {
  weight->attributes[kBits] = std::string(parameters.bits->name);
  weight->attributes[kViewAsFloat] = std::to_string(static_cast<int>(parameters.view_as_float));
  const int64_t shape[2] = {weight->rows, weight->cols};
  const HqqPacking& packing = parameters.bits->packing;
  const auto keep = [weight](absl::string_view name, const Tensor& tensor) {
    KeepTensor(name, tensor, &weight->attributes);
  };
  keep("nbits", Bits(*parameters.bits));
  keep("group_size",
       Integer(static_cast<int32_t>(weight->rows * weight->cols / weight->block_count())));
  keep("axis", Integer(parameters.axis));
  keep("shape", TensorOf<int64_t>(DType::kI64, {2}, shape));
  keep("packing", Text(packing.name));
  keep("compute_dtype", Text(absl::StrCat("torch.", InfoOf(weight->scale_dtype).torch_name)));
  keep("unpack_view_dtype", Text(packing.word == DType::kI32 ? "torch.int32" : "torch.uint8"));
  keep("view_as_float", Switch(parameters.view_as_float));
  keep("optimize", Switch(parameters.optimize));
  keep("round_zero", Switch(parameters.round_zero));
  for (const char* name : {"quant_zero", "quant_scale", "offload_meta"}) keep(name, Switch(false));
  for (const char* name : {"channel_wise", "encoded_state_dict", "stores_quant_config"}) {
    keep(name, Switch(true));
  }
}

bool HqqCodec::IsQuantized(const ModuleTensors& tensors) const { return tensors.Has("W_q"); }

std::vector<std::string> HqqCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names = {"W_q", "scale", "zero"};
  for (const char* name : kSettings) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> HqqCodec::MatrixShape(const ModuleTensors& tensors) const {
  return ReadShape(tensors);
}

absl::StatusOr<QuantizedTensor> HqqCodec::Decode(const ModuleTensors& tensors) const {
  for (const char* name : {"scale", "zero", "weight"}) {
    const bool wanted = name != absl::string_view("weight");
    if (tensors.Has(name) == wanted) continue;
    return TensorError(
        tensors, name,
        wanted ? "the tensor is missing" : "stored beside W_q; only one of them may be there");
  }
  ASSIGN_OR_RETURN(const Settings settings, ReadSettings(tensors, config_));
  QuantizedTensor out;
  out.rows = settings.shape[0];
  out.cols = settings.shape[1];
  out.dequantized_dtype = settings.compute_dtype;
  out.rounds_each_step = true;
  out.grid = UniformGrid(settings.bits->bits, /*is_signed=*/false);
  out.block = GroupBlocks(out.rows, out.cols, settings.group_size, settings.axis);
  RETURN_IF_ERROR(DecodeScales(tensors, settings, &out));
  RETURN_IF_ERROR(DecodeCodes(tensors, settings, &out));
  out.attributes[kBits] = std::string(settings.bits->name);
  out.attributes[kViewAsFloat] = std::to_string(static_cast<int>(settings.view_as_float));
  for (const char* name : kSettings) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const Tensor setting, tensors.Read(name));
    KeepTensor(name, setting, &out.attributes);
  }
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> HqqCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name, RequireAttribute(weight, kBits, quant_method()));
  const HqqBits* bits = FindHqqBits(name);
  if (bits == nullptr) return absl::InvalidArgumentError(absl::StrCat("no HQQ width ", name));
  const int axis = weight.block.strided ? 0 : 1;
  const int64_t groups = weight.block_count();
  const int64_t elements = weight.rows * weight.cols;
  const Grouped grouped = GroupedShape(elements, elements / groups, axis);
  Tensor words = PackHqq(bits->packing, weight.codes, grouped.rows, grouped.cols);
  if (Attribute(weight, kViewAsFloat) == "1") {
    words.shape = FloatView(words.shape, words.dtype, weight.scale_dtype);
    words.dtype = weight.scale_dtype;
  }
  const Shape shape = axis == 1 ? Shape{groups, 1} : Shape{1, groups};
  std::vector<NamedTensor> out;
  out.push_back({"W_q", std::move(words)});
  out.push_back({"scale", FloatTensor(weight.scale_dtype, shape, weight.scale)});
  out.push_back({"zero", FloatTensor(weight.scale_dtype, shape, weight.zero_point)});
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd

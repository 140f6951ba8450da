#include "quantizers/codecs/torchao.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/float_types.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/codecs/torchao_header.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

constexpr char kData[] = "_weight_qdata";
constexpr char kScale[] = "_weight_scale";
constexpr char kZeroPoint[] = "_weight_zero_point";
constexpr char kPreScale[] = "_weight_act_pre_scale";
// Scales of static activations: they travel with the weight.
constexpr const char* kTravellers[] = {"_weight_act_quant_scale", "_weight_act_quant_zero_point"};

constexpr char kClass[] = "torchao.tensor";
constexpr char kZeros[] = "torchao.zero_point";  // "none": the optional tensor is not there

bool IsPacked(const AoScheme& scheme) { return scheme.tensor == AoTensor::kInt4; }

Shape ScaleShape(const QuantizedTensor& weight) {
  return {weight.block_count() / weight.block_columns(), weight.block_columns()};
}

// The codes of a grid that begins at `first`, stored as signed bytes.
absl::Status DecodeSignedBytes(const ModuleTensors& tensors, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor data,
                   ReadTensor(tensors, kData, {DType::kI8}, Shape{out->rows, out->cols}));
  out->codes = Elements<uint8_t>(data);
  const uint8_t first = static_cast<uint8_t>(out->grid.first);
  const int limit = 1 << out->grid.bits;
  for (size_t i = 0; i < out->codes.size(); ++i) {
    out->codes[i] = static_cast<uint8_t>(out->codes[i] - first);
    if (out->codes[i] >= limit) {
      return TensorError(tensors, kData,
                         absl::StrCat("element ", i, " does not fit ", out->grid.bits, " bits"));
    }
  }
  return absl::OkStatus();
}

// Two's complement nibbles, the even column in the low one.
absl::Status DecodeSignedNibbles(const ModuleTensors& tensors, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor data, ReadTensor(tensors, kData, {DType::kI8, DType::kU8},
                                                 Shape{out->rows, out->cols / 2}));
  out->codes = UnpackNibbles(data.bytes, out->rows * out->cols, NibbleOrder::kLowFirst);
  for (uint8_t& code : out->codes) code ^= 8;
  return absl::OkStatus();
}

// A block of zeros has a scale of zero and NaN codes upstream; any other NaN or infinity is damage.
absl::Status DecodeFloat8(const ModuleTensors& tensors, DType dtype, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor data,
                   ReadTensor(tensors, kData, {dtype}, Shape{out->rows, out->cols}));
  out->codes = Elements<uint8_t>(data);
  const uint8_t least = dtype == DType::kF8E4M3 ? 0x7f : 0x7c;
  for (size_t i = 0; i < out->codes.size(); ++i) {
    if ((out->codes[i] & 0x7f) < least) continue;
    const int64_t row = static_cast<int64_t>(i) / out->cols;
    if (out->scale[out->block_of(row, static_cast<int64_t>(i) % out->cols)] == 0) continue;
    return TensorError(tensors, kData, absl::StrCat("element ", i, " is NaN or infinite"));
  }
  return absl::OkStatus();
}

absl::Status DecodeScales(const ModuleTensors& tensors, bool transposed,
                          std::initializer_list<DType> dtypes, const char* name,
                          std::vector<float>* out, const QuantizedTensor& weight) {
  Shape shape = ScaleShape(weight);
  if (transposed) std::swap(shape[0], shape[1]);
  ASSIGN_OR_RETURN(*out, ReadFiniteFloats(tensors, name, dtypes, shape));
  if (transposed) *out = Transposed(*out, shape[0], shape[1]);
  return absl::OkStatus();
}

// Integer zero points; Int8Tensor has zeros or none, IntxUnpackedToInt8Tensor always some.
absl::Status DecodeZeroPoints(const ModuleTensors& tensors, bool optional, QuantizedTensor* out) {
  if (optional && !tensors.Has(kZeroPoint)) {
    out->attributes[kZeros] = "none";
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Tensor zeros,
                   ReadTensor(tensors, kZeroPoint, {DType::kI8}, ScaleShape(*out)));
  const std::vector<int8_t> values = Elements<int8_t>(zeros);
  if (std::all_of(values.begin(), values.end(), [](int8_t zero) { return zero == 0; })) {
    return absl::OkStatus();
  }
  out->zero_point.assign(values.begin(), values.end());
  return absl::OkStatus();
}

// AWQ and SmoothQuant: inputs are multiplied by it.
absl::Status DecodePreScale(const ModuleTensors& tensors, QuantizedTensor* out) {
  if (!tensors.Has(kPreScale)) return absl::OkStatus();
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(kPreScale));
  if (stored.shape.empty() || stored.shape.back() != out->cols ||
      NumElements(stored.shape) != out->cols) {
    return TensorError(tensors, kPreScale,
                       absl::StrCat("found the shape ", ToString(stored.shape),
                                    ", expected one number for each of ", out->cols, " columns"));
  }
  ASSIGN_OR_RETURN(
      const std::vector<float> values,
      ReadFiniteFloats(tensors, kPreScale, {DType::kF32, DType::kF16, DType::kBF16}, stored.shape));
  for (const float value : values) {
    if (value == 0) return TensorError(tensors, kPreScale, "has an element that is zero");
    out->input.channel_scale.push_back(1.0f / value);
  }
  ASSIGN_OR_RETURN(const Tensor kept, tensors.Read(kPreScale));
  KeepTensor(kPreScale, kept, &out->attributes);
  return absl::OkStatus();
}

absl::Status KeepTravellers(const ModuleTensors& tensors, QuantizedTensor* out) {
  for (const char* name : kTravellers) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
    if (NumElements(stored.shape) > out->cols) {
      return TensorError(tensors, name, "expected at most one number a column");
    }
    ASSIGN_OR_RETURN(const Tensor kept, tensors.Read(name));
    KeepTensor(name, kept, &out->attributes);
  }
  return absl::OkStatus();
}

Grid GridOf(const AoScheme& scheme) {
  if (scheme.tensor != AoTensor::kFloat8) return UniformGrid(scheme.bits, /*is_signed=*/true);
  return scheme.float_dtype == DType::kF8E4M3 ? E4M3Grid() : E5M2Grid();
}

absl::Status CheckBlocks(const ModuleTensors& tensors, const AoScheme& scheme, const Shape& shape) {
  if (scheme.block.cols <= 0 || shape[1] % scheme.block.cols == 0) return absl::OkStatus();
  return TensorError(
      tensors, kData,
      absl::StrCat("group_size ", scheme.block.cols, " does not divide ", shape[1], " columns"));
}

// Scales, zero points and codes by class.
absl::Status DecodeParts(const ModuleTensors& tensors, const AoScheme& scheme,
                         QuantizedTensor* out) {
  const std::initializer_list<DType> kFloats = {DType::kBF16, DType::kF16, DType::kF32};
  switch (scheme.tensor) {
    case AoTensor::kInt8:
      out->scale_dtype = DType::kF32;
      RETURN_IF_ERROR(DecodeScales(tensors, false, {DType::kF32}, kScale, &out->scale, *out));
      RETURN_IF_ERROR(DecodeZeroPoints(tensors, /*optional=*/true, out));
      return DecodeSignedBytes(tensors, out);
    case AoTensor::kFloat8:
      out->scale_dtype = DType::kF32;
      RETURN_IF_ERROR(DecodeScales(tensors, false, {DType::kF32}, kScale, &out->scale, *out));
      return DecodeFloat8(tensors, scheme.float_dtype, out);
    case AoTensor::kIntx:
      RETURN_IF_ERROR(DecodeScales(tensors, false, kFloats, kScale, &out->scale, *out));
      RETURN_IF_ERROR(DecodeZeroPoints(tensors, /*optional=*/false, out));
      RETURN_IF_ERROR(DecodeSignedBytes(tensors, out));
      break;
    case AoTensor::kInt4:
      out->dequantized_dtype = DType::kF32;
      RETURN_IF_ERROR(DecodeScales(tensors, true, kFloats, kScale, &out->scale, *out));
      RETURN_IF_ERROR(DecodeScales(tensors, true, kFloats, kZeroPoint, &out->offset, *out));
      RETURN_IF_ERROR(DecodeSignedNibbles(tensors, out));
      break;
  }
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(kScale));
  out->scale_dtype = stored.dtype;
  return absl::OkStatus();
}

// --- writing ---

absl::StatusOr<AoTensor> TensorNamed(absl::string_view name) {
  for (const AoTensor tensor :
       {AoTensor::kInt8, AoTensor::kInt4, AoTensor::kIntx, AoTensor::kFloat8}) {
    if (NameOf(tensor) == name) return tensor;
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown torchao tensor ", name));
}

void EncodeInt4(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  std::vector<std::byte> pairs = PackNibbles(weight.codes, NibbleOrder::kLowFirst, 0);
  for (std::byte& pair : pairs) pair ^= std::byte{0x88};  // the codes are signed
  out->push_back({kData, Tensor{DType::kI8, {weight.rows, weight.cols / 2}, std::move(pairs)}});
  const Shape shape = ScaleShape(weight);
  const Shape stored = {shape[1], shape[0]};
  out->push_back({kScale, FloatTensor(weight.scale_dtype, stored,
                                      Transposed(weight.scale, shape[0], shape[1]))});
  out->push_back({kZeroPoint, FloatTensor(weight.scale_dtype, stored,
                                          Transposed(weight.offset, shape[0], shape[1]))});
}

void EncodeIntegers(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  out->push_back(
      {kData, CodeTensor(DType::kI8, {weight.rows, weight.cols}, weight.codes, weight.grid.first)});
  const Shape shape = ScaleShape(weight);
  out->push_back({kScale, FloatTensor(weight.scale_dtype, shape, weight.scale)});
  if (Attribute(weight, kZeros) == "none") return;
  std::vector<int8_t> zeros(weight.zero_point.begin(), weight.zero_point.end());
  zeros.resize(weight.scale.size());
  out->push_back({kZeroPoint, TensorOf<int8_t>(DType::kI8, shape, zeros)});
}

void EncodeFloat8(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  const DType dtype = weight.grid.is_e4m3 ? DType::kF8E4M3 : DType::kF8E5M2;
  out->push_back({kData, CodeTensor(dtype, {weight.rows, weight.cols}, weight.codes)});
  out->push_back({kScale, FloatTensor(DType::kF32, ScaleShape(weight), weight.scale)});
}

}  // namespace

void MarkTorchAo(const AoScheme& scheme, QuantizedTensor* weight) {
  weight->attributes[kClass] = std::string(NameOf(scheme.tensor));
}

bool TorchAoCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has(kData) || tensors.Has(kScale) || tensors.Has("_weight_scale_and_zero");
}

int64_t TorchAoCodec::GroupSizeOf(const ModuleInfo& module) const {
  if (IsSkipped(module, config_.modules_to_not_convert)) return 0;
  const AoScheme* scheme = config_.SchemeOf(module.name);
  // Int4WeightOnlyConfig passes over modules that its groups do not fit.
  return scheme == nullptr || scheme->tensor == AoTensor::kInt4 ? 0 : scheme->block.cols;
}

std::vector<std::string> TorchAoCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {kData, kScale, kZeroPoint, kPreScale}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  for (const char* name : kTravellers) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<const AoScheme*> TorchAoCodec::SchemeOf(const ModuleTensors& tensors) const {
  const AoScheme* scheme = config_.SchemeOf(tensors.module());
  if (scheme != nullptr) return scheme;
  return TensorError(tensors, kData, "is quantized, but quantization_config leaves it as it is");
}

absl::StatusOr<Shape> TorchAoCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const AoScheme* scheme, SchemeOf(tensors));
  if (tensors.Has("_weight_scale_and_zero")) {
    return absl::UnimplementedError(absl::StrCat(
        TensorPath(tensors, "_weight_scale_and_zero"),
        ": int4 weights tiled for one device (Int4TilePackedTo4dTensor) are not supported"));
  }
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, kData));
  if (IsPacked(*scheme)) shape[1] *= 2;
  RETURN_IF_ERROR(CheckMatrixShape(tensors, kData, shape));
  return shape;
}

absl::StatusOr<QuantizedTensor> TorchAoCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  ASSIGN_OR_RETURN(const AoScheme* scheme, SchemeOf(tensors));
  if (tensors.Has("weight")) {
    return TensorError(tensors, "weight", "stands beside _weight_qdata; expected one of them");
  }
  RETURN_IF_ERROR(CheckBlocks(tensors, *scheme, shape));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = GridOf(*scheme);
  out.block = scheme->block;
  ASSIGN_OR_RETURN(out.dequantized_dtype,
                   CheckTorchAoText(tensors.HeaderText("weight"), *scheme, shape, model_dtype_,
                                    TensorPath(tensors, "weight")));
  RETURN_IF_ERROR(DecodeParts(tensors, *scheme, &out));
  RETURN_IF_ERROR(DecodePreScale(tensors, &out));
  RETURN_IF_ERROR(KeepTravellers(tensors, &out));
  MarkTorchAo(*scheme, &out);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> TorchAoCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name, RequireAttribute(weight, kClass, "torchao"));
  ASSIGN_OR_RETURN(const AoTensor tensor, TensorNamed(name));
  std::vector<NamedTensor> out;
  switch (tensor) {
    case AoTensor::kInt4:
      EncodeInt4(weight, &out);
      break;
    case AoTensor::kFloat8:
      EncodeFloat8(weight, &out);
      break;
    default:
      EncodeIntegers(weight, &out);
      break;
  }
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

std::map<std::string, std::string> TorchAoCodec::HeaderTexts(
    const std::vector<WrittenParameter>& parameters) const {
  std::map<std::string, std::string> texts;
  for (const WrittenParameter& parameter : parameters) {
    const AoScheme* scheme = parameter.is_quantized
                                 ? config_.SchemeOf(absl::StripSuffix(parameter.name, ".weight"))
                                 : nullptr;
    texts[parameter.name] = scheme == nullptr
                                ? TorchAoPlainText()
                                : TorchAoWeightText(*scheme, parameter.shape, parameter.dtype);
  }
  texts["tensor_names"] = TorchAoNamesText(parameters);
  return texts;
}

}  // namespace quantd

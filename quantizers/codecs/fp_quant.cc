#include "quantizers/codecs/fp_quant.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

constexpr absl::string_view kCodes = "qweight";
constexpr absl::string_view kScales = "scales";
constexpr absl::string_view kValues = "dqweight";
constexpr absl::string_view kMaster = "weight";
constexpr absl::string_view kWeightScale = "weight_global_scale";
constexpr absl::string_view kInputScale = "act_global_scale";
constexpr absl::string_view kForward = "forward_hadamard_matrix";
constexpr absl::string_view kBackward = "backward_hadamard_matrix";
constexpr absl::string_view kMatrices[] = {kCodes, kValues, kMaster};
constexpr std::initializer_list<DType> kFloats = {DType::kBF16, DType::kF16, DType::kF32};

// Attributes: which tensor holds the matrix, and the dtype of the rotation.
constexpr char kForm[] = "fp_quant.form";
constexpr char kDType[] = "fp_quant.dtype";

constexpr int64_t kTileRows = 128;
constexpr int64_t kTileBlocks = 4;

int64_t RoundUp(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

bool HasElements(const ModuleTensors& tensors, absl::string_view name) {
  const auto stored = tensors.Describe(name);
  return stored.ok() && stored->elements() > 0;
}

// The one number of a tensor [1] or []; kept for Encode.
absl::StatusOr<float> ReadGlobalScale(const ModuleTensors& tensors, absl::string_view name,
                                      QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, name, kFloats, std::nullopt));
  const float value = NumElements(stored.shape) == 1 ? LoadFloat(stored, 0) : 0.0f;
  if (!std::isfinite(value) || !(value > 0)) {
    return TensorError(tensors, name,
                       absl::StrCat("found shape ", ToString(stored.shape), ", value ", value,
                                    "; expected one positive number"));
  }
  KeepTensor(name, stored, &out->attributes);
  return value;
}

// E8M0, of a power of two.
uint8_t PowerByte(float scale) {
  return static_cast<uint8_t>(scale > 0 ? 127 + std::ilogb(scale) : 0);
}

// Which may be the rotation of "identity".
std::vector<float> Identity(int64_t size) {
  std::vector<float> matrix(static_cast<size_t>(size * size));
  for (int64_t i = 0; i < size; ++i) matrix[i * size + i] = 1;
  return matrix;
}

InputRounding RoundingOf(const FpQuantConfig& config, float global_scale) {
  const Fp4Blocks blocks = config.blocks(global_scale);
  return {.values = InputRounding::Values::kE2M1,
          .dynamic = true,
          .group = blocks.size(),
          .fp4 = blocks};
}

void Mark(absl::string_view form, DType dtype, QuantizedTensor* weight) {
  weight->attributes[kForm] = std::string(form);
  weight->attributes[kDType] = std::string(InfoOf(dtype).safetensors_name);
}

// Values are sums of float32 upstream, too, before they are rounded to the matrix' dtype; codes
// have no other dtype.
DType DequantizedDType(const FpQuantConfig& config, DType stored) {
  return config.pseudoquantization ? stored : DType::kF32;
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeFpQuant(const FpQuantConfig& config,
                                                const TensorView& weight,
                                                std::span<const float> rotation,
                                                const StopRequest& stopped) {
  const float scale = config.global_scale();
  const RotatedFp4Spec spec = {config.blocks(scale), rotation, config.hadamard_group_size};
  ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeRotatedFp4(weight, spec, stopped));
  out.dequantized_dtype = DequantizedDType(config, weight.dtype);
  out.input.rounding = RoundingOf(config, scale);
  if (config.store_master_weights) out.unquantized = CopyOf(weight);
  Mark(config.store_master_weights ? kMaster
       : config.pseudoquantization ? kValues
                                   : kCodes,
       weight.dtype, &out);
  for (const absl::string_view name : {kWeightScale, kInputScale}) {
    KeepTensor(name, FloatTensor(weight.dtype, {1}, {scale}), &out.attributes);
  }
  return out;
}

absl::string_view FpQuantCodec::MatrixName() const {
  if (config_.store_master_weights) return kMaster;
  return config_.pseudoquantization ? kValues : kCodes;
}

bool FpQuantCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has(kWeightScale) || tensors.Has(kForward) || tensors.Has(kCodes) ||
         tensors.Has(kValues);
}

std::vector<std::string> FpQuantCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const absl::string_view name :
       {kCodes, kScales, kValues, kMaster, kWeightScale, kInputScale, kForward, kBackward}) {
    if (tensors.Has(name)) names.emplace_back(name);
  }
  return names;
}

absl::StatusOr<Shape> FpQuantCodec::MatrixShape(const ModuleTensors& tensors) const {
  const absl::string_view name = MatrixName();
  for (const absl::string_view other : kMatrices) {
    if (tensors.Has(name) || !HasElements(tensors, other)) continue;
    return TensorError(
        tensors, name,
        absl::StrCat(
            "not there, but `", other, "` is: quantization_config says pseudoquantization ",
            config_.pseudoquantization ? "true" : "false", ", store_master_weights ",
            config_.store_master_weights ? "true" : "false", "; correct the one that is wrong"));
  }
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, name));
  if (name == kCodes) shape[1] *= 2;
  RETURN_IF_ERROR(CheckMatrixShape(tensors, name, shape));
  if (shape[1] % config_.hadamard_group_size == 0) return shape;
  return TensorError(tensors, name,
                     absl::StrCat("found ", shape[1], " columns, expected a multiple of ",
                                  config_.hadamard_group_size, " (hadamard_group_size)"));
}

absl::Status FpQuantCodec::ReadRotation(const ModuleTensors& tensors, RotatedFp4Spec* spec,
                                        QuantizedTensor* out) const {
  const int64_t size = config_.hadamard_group_size;
  std::vector<float>& rotation = out->input.rotation;
  ASSIGN_OR_RETURN(rotation, ReadFiniteFloats(tensors, kForward, kFloats, Shape{size, size}));
  ASSIGN_OR_RETURN(const Tensor forward, tensors.Read(kForward));
  Mark(MatrixName(), forward.dtype, out);
  RETURN_IF_ERROR(ReadFiniteFloats(tensors, kBackward, kFloats, Shape{size, size}).status());
  ASSIGN_OR_RETURN(const Tensor backward, tensors.Read(kBackward));
  if (backward.dtype != forward.dtype || backward.bytes != forward.bytes) {
    KeepTensor(kBackward, backward, &out->attributes);
  }
  if (rotation == Identity(size)) rotation.clear();
  out->input.hadamard_size = rotation.empty() ? 0 : static_cast<int>(size);
  *spec = {.rotation = rotation, .size = size};
  return absl::OkStatus();
}

// Padded scales are read by rows and columns, as upstream's products read them. (Its kernels before
// QuTLASS' swizzled scales write them one after the other: the same unless a row's blocks are no
// multiple of 4, where upstream does not find its own scales.)
absl::Status FpQuantCodec::DecodeScales(const ModuleTensors& tensors, QuantizedTensor* out) const {
  const int64_t blocks = out->block_columns();
  const Shape tiles = {RoundUp(out->rows, kTileRows), RoundUp(blocks, kTileBlocks)};
  const auto found = tensors.Describe(kScales);
  const bool padded = found.ok() && found->shape == tiles;
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, kScales, {DType::kU8},
                                                   padded ? tiles : Shape{out->rows, blocks}));
  if (padded && tiles != Shape{out->rows, blocks}) KeepTensor(kScales, stored, &out->attributes);
  out->scale_dtype = config_.is_mx() ? DType::kF8E8M0 : DType::kF8E4M3;
  const std::vector<uint8_t> bytes = Elements<uint8_t>(stored);
  for (int64_t row = 0; row < out->rows; ++row) {
    for (int64_t block = 0; block < blocks; ++block) {
      const uint8_t byte = bytes[row * stored.shape[1] + block];
      const float scale = config_.is_mx() ? FloatFromE8M0(byte) : FloatFromE4M3(byte);
      if (!std::isfinite(kE2M1Max * scale) || !std::isfinite(kE2M1Max * scale * out->post_scale)) {
        return TensorError(
            tensors, kScales,
            absl::StrCat("the scale of row ", row, ", block ", block, " is NaN or beyond float32"));
      }
      out->scale.push_back(scale);
    }
  }
  return absl::OkStatus();
}

absl::Status FpQuantCodec::KeepEmpty(const ModuleTensors& tensors, QuantizedTensor* out) const {
  const absl::string_view own = MatrixName();
  for (const absl::string_view other : {kCodes, kScales, kValues, kMaster}) {
    if (other == own || (own == kCodes && other == kScales) || !tensors.Has(other)) continue;
    ASSIGN_OR_RETURN(
        const Tensor empty,
        ReadTensor(tensors, other, {DType::kU8, DType::kBF16, DType::kF16, DType::kF32}, Shape{0}));
    KeepTensor(other, empty, &out->attributes);
  }
  return absl::OkStatus();
}

absl::Status FpQuantCodec::DecodeCodes(const ModuleTensors& tensors, QuantizedTensor* out) const {
  ASSIGN_OR_RETURN(const Tensor packed,
                   ReadTensor(tensors, kCodes, {DType::kU8}, Shape{out->rows, out->cols / 2}));
  out->codes = UnpackNibbles(packed.bytes, out->rows * out->cols, NibbleOrder::kLowFirst);
  return DecodeScales(tensors, out);
}

absl::StatusOr<QuantizedTensor> FpQuantCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  QuantizedTensor out;
  RotatedFp4Spec spec;
  RETURN_IF_ERROR(ReadRotation(tensors, &spec, &out));
  ASSIGN_OR_RETURN(const float scale, ReadGlobalScale(tensors, kWeightScale, &out));
  ASSIGN_OR_RETURN(const float input_scale, ReadGlobalScale(tensors, kInputScale, &out));
  out.input.rounding = RoundingOf(config_, input_scale);
  spec.blocks = config_.blocks(scale);
  const absl::string_view name = MatrixName();
  RETURN_IF_ERROR(KeepEmpty(tensors, &out));
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = E2M1Grid();
  out.block = {.rows = 1, .cols = spec.blocks.size()};
  out.post_scale = 1.0f / scale;
  if (name == kCodes) {
    RETURN_IF_ERROR(DecodeCodes(tensors, &out));
    return out;
  }
  ASSIGN_OR_RETURN(Tensor matrix, ReadTensor(tensors, name, kFloats, shape));
  out.dequantized_dtype = DequantizedDType(config_, matrix.dtype);
  if (name == kValues) {
    const absl::Status recovered = RecoverFp4(spec.blocks, matrix, &out);
    if (!recovered.ok()) return TensorError(tensors, name, recovered.message());
    return out;
  }
  RETURN_IF_ERROR(ReadFiniteFloats(tensors, name, kFloats, shape).status());
  // As upstream does at every use.
  ASSIGN_OR_RETURN(QuantizedTensor quantized, QuantizeRotatedFp4(matrix, spec));
  out.codes = std::move(quantized.codes);
  out.scale = std::move(quantized.scale);
  out.scale_dtype = quantized.scale_dtype;
  out.unquantized = std::move(matrix);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> FpQuantCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string form, RequireAttribute(weight, kForm, quant_method()));
  if (form != MatrixName() || weight.block.cols != config_.blocks(1).size()) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix of `", form, "` in blocks of ",
                                                   weight.block.cols, " cannot be written as ",
                                                   config_.Describe()));
  }
  std::vector<NamedTensor> out = KeptTensors(weight.attributes);
  const auto has = [&out](absl::string_view name) {
    return std::any_of(out.begin(), out.end(),
                       [name](const NamedTensor& kept) { return kept.name == name; });
  };
  const Shape shape = {weight.rows, weight.cols};
  if (form == kMaster) {
    out.push_back({std::string(kMaster), *weight.unquantized});
  } else if (form == kValues) {
    out.push_back(
        {std::string(kValues), FloatTensor(weight.dequantized_dtype, shape, Dequantize(weight))});
  } else {
    out.push_back(
        {std::string(kCodes), Tensor{DType::kU8,
                                     {weight.rows, weight.cols / 2},
                                     PackNibbles(weight.codes, NibbleOrder::kLowFirst, 0)}});
    if (!has(kScales)) {
      std::vector<uint8_t> bytes(weight.scale.size());
      std::transform(weight.scale.begin(), weight.scale.end(), bytes.begin(), [&](float scale) {
        return config_.is_mx() ? PowerByte(scale) : E4M3FromFloat(scale);
      });
      out.push_back({std::string(kScales),
                     TensorOf<uint8_t>(DType::kU8, {weight.rows, weight.block_columns()}, bytes)});
    }
  }
  const int64_t size = config_.hadamard_group_size;
  const DType dtype = DTypeFromSafetensors(Attribute(weight, kDType)).value_or(DType::kBF16);
  const std::vector<float>& rotation = weight.input.rotation;
  Tensor forward = FloatTensor(dtype, {size, size}, rotation.empty() ? Identity(size) : rotation);
  if (!has(kBackward)) out.push_back({std::string(kBackward), forward});
  out.push_back({std::string(kForward), std::move(forward)});
  return out;
}

}  // namespace quantd

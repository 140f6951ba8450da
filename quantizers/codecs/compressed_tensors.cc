#include "quantizers/codecs/compressed_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/compressed_tensors_inputs.h"
#include "quantizers/codecs/compressed_tensors_pack.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

// Tensors of the weight itself, and those of activations, which are written again as they are.
constexpr const char* kWeightNames[] = {"weight",       "weight_packed",     "weight_scale",
                                        "weight_shape", "weight_zero_point", "weight_global_scale",
                                        "weight_g_idx"};
constexpr const char* kTravellers[] = {"input_scale",  "input_zero_point",  "input_global_scale",
                                       "output_scale", "output_zero_point", "output_global_scale"};

bool IsPacked(CtFormat format) {
  return format == CtFormat::kPackQuantized || format == CtFormat::kNvfp4Pack ||
         format == CtFormat::kMxfp4Pack || format == CtFormat::kMxfp6Pack;
}

bool IsMx(CtFormat format) {
  return format == CtFormat::kMxfp4Pack || format == CtFormat::kMxfp6Pack ||
         format == CtFormat::kMxfp8;
}

// Columns that a packed byte row of `width` holds.
int64_t ColumnsOf(CtFormat format, int64_t width) {
  return format == CtFormat::kMxfp6Pack ? width / 3 * 4 : width * 2;
}

absl::StatusOr<Shape> ShapeOf(const ModuleTensors& tensors, CtFormat format) {
  if (!IsPacked(format)) return ReadMatrixShape(tensors, "weight");
  if (format == CtFormat::kPackQuantized) return ReadPackedShape(tensors);
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, "weight_packed"));
  if (format == CtFormat::kMxfp6Pack && shape[1] % 3 != 0) {
    return TensorError(tensors, "weight_packed",
                       absl::StrCat("found ", shape[1], " bytes a row, expected a multiple of 3"));
  }
  shape[1] = ColumnsOf(format, shape[1]);
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight_packed", shape));
  return shape;
}

absl::Status CheckGroups(const ModuleTensors& tensors, const CtArgs& args, int64_t cols) {
  if (args.group_size <= 0 || cols % args.group_size == 0) return absl::OkStatus();
  return TensorError(
      tensors, "weight",
      absl::StrCat("group_size ", args.group_size, " does not divide ", cols, " columns"));
}

// How upstream shapes the scales of a matrix.
Shape ScaleShape(CtStrategy strategy, const QuantizedTensor& weight) {
  if (strategy == CtStrategy::kTensor) return {1};
  return {weight.block_count() / weight.block_columns(), weight.block_columns()};
}

// Codes that are stored one byte each, signed integers or E4M3.
absl::Status DecodeBytes(const ModuleTensors& tensors, const CtArgs& args, QuantizedTensor* out) {
  const Shape shape = {out->rows, out->cols};
  if (args.is_float) {
    ASSIGN_OR_RETURN(const Tensor weight, ReadTensor(tensors, "weight", {DType::kF8E4M3}, shape));
    out->codes = Elements<uint8_t>(weight);
    for (size_t i = 0; i < out->codes.size(); ++i) {
      if ((out->codes[i] & 0x7f) == 0x7f) {
        return TensorError(tensors, "weight", absl::StrCat("element ", i, " is NaN"));
      }
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const Tensor weight, ReadTensor(tensors, "weight", {DType::kI8}, shape));
  out->codes = Elements<uint8_t>(weight);
  const uint8_t first = static_cast<uint8_t>(out->grid.first);
  const int limit = 1 << out->grid.bits;
  for (size_t i = 0; i < out->codes.size(); ++i) {
    out->codes[i] = static_cast<uint8_t>(out->codes[i] - first);
    if (out->codes[i] >= limit) {
      return TensorError(tensors, "weight",
                         absl::StrCat("element ", i, " does not fit ", out->grid.bits, " bits"));
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeCodes(const ModuleTensors& tensors, const CtGroup& group,
                         const std::string& version, QuantizedTensor* out) {
  switch (group.format) {
    case CtFormat::kPackQuantized:
      return DecodePackedWords(tensors, *group.weights, version, out);
    case CtFormat::kNvfp4Pack:
    case CtFormat::kMxfp4Pack: {
      ASSIGN_OR_RETURN(const Tensor packed, ReadTensor(tensors, "weight_packed", {DType::kU8},
                                                       Shape{out->rows, out->cols / 2}));
      out->codes = UnpackNibbles(packed.bytes, out->rows * out->cols, NibbleOrder::kLowFirst);
      return absl::OkStatus();
    }
    case CtFormat::kMxfp6Pack: {
      ASSIGN_OR_RETURN(const Tensor packed, ReadTensor(tensors, "weight_packed", {DType::kU8},
                                                       Shape{out->rows, out->cols / 4 * 3}));
      out->codes = UnpackSixBits(packed.bytes);
      return absl::OkStatus();
    }
    default:
      return DecodeBytes(tensors, *group.weights, out);
  }
}

// NVFP4: an E4M3 scale a group, divided by one float32 for the matrix.
absl::Status DecodeTwoLevelScales(const ModuleTensors& tensors, QuantizedTensor* out) {
  const Shape shape = ScaleShape(CtStrategy::kTensorGroup, *out);
  ASSIGN_OR_RETURN(const std::vector<float> local,
                   ReadFiniteFloats(tensors, "weight_scale", {DType::kF8E4M3}, shape));
  ASSIGN_OR_RETURN(const std::vector<float> whole,
                   ReadFiniteFloats(tensors, "weight_global_scale", {DType::kF32}, Shape{1}));
  if (whole[0] == 0) return TensorError(tensors, "weight_global_scale", "is zero");
  NestedScales nested;
  nested.super_size = static_cast<int64_t>(local.size());
  nested.super_scale = whole;
  for (const float scale : local) {
    nested.scale_codes.push_back(E4M3FromFloat(scale));
    out->scale.push_back(scale / whole[0]);
    if (!std::isfinite(out->scale.back())) {
      return TensorError(tensors, "weight_global_scale",
                         absl::StrCat("is so small that the scale of group ", out->scale.size() - 1,
                                      " overflows float32"));
    }
  }
  out->scale_dtype = DType::kF8E4M3;
  out->nested = std::move(nested);
  return absl::OkStatus();
}

absl::Status DecodeExponents(const ModuleTensors& tensors, QuantizedTensor* out) {
  const Shape shape = ScaleShape(CtStrategy::kGroup, *out);
  ASSIGN_OR_RETURN(const Tensor exponents,
                   ReadTensor(tensors, "weight_scale", {DType::kU8, DType::kF8E8M0}, shape));
  for (const uint8_t byte : Elements<uint8_t>(exponents)) {
    if (byte == 255) return TensorError(tensors, "weight_scale", "an exponent byte is 255 (NaN)");
    out->scale.push_back(FloatFromE8M0(byte));
  }
  out->scale_dtype = DType::kF8E8M0;
  if (exponents.dtype != DType::kU8) out->attributes["ct.scale_dtype"] = "F8_E8M0";
  return absl::OkStatus();
}

absl::Status DecodeFloatScales(const ModuleTensors& tensors, const CtArgs& args,
                               QuantizedTensor* out) {
  const Shape shape = ScaleShape(args.strategy, *out);
  if (!tensors.Has("weight_scale")) {
    return TensorError(tensors, "weight_scale", "the tensor is missing");
  }
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe("weight_scale"));
  // A scale for the whole matrix is also found as a scalar, one for a row as a vector.
  Shape expected = shape;
  if (args.strategy == CtStrategy::kTensor &&
      (stored.shape == Shape{} || stored.shape == Shape{1, 1})) {
    expected = stored.shape;
  }
  if (args.strategy == CtStrategy::kChannel && stored.shape == Shape{out->rows}) {
    expected = stored.shape;
  }
  if (expected != shape) out->attributes["ct.scale_rank"] = absl::StrCat(expected.size());
  ASSIGN_OR_RETURN(out->scale,
                   ReadFiniteFloats(tensors, "weight_scale",
                                    {DType::kBF16, DType::kF16, DType::kF32}, expected));
  out->scale_dtype = stored.dtype;
  out->dequantized_dtype = stored.dtype;
  return absl::OkStatus();
}

absl::Status DecodeByteZeroPoints(const ModuleTensors& tensors, const CtArgs& args,
                                  QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor zeros, ReadTensor(tensors, "weight_zero_point", {DType::kI8},
                                                  ScaleShape(args.strategy, *out)));
  for (const int8_t zero : Elements<int8_t>(zeros)) out->zero_point.push_back(zero);
  return absl::OkStatus();
}

bool HasPackedZeroPoints(CtFormat format, CtStrategy strategy) {
  return format == CtFormat::kPackQuantized &&
         (strategy == CtStrategy::kGroup || strategy == CtStrategy::kChannel);
}

absl::Status DecodeZeroPoints(const ModuleTensors& tensors, const CtGroup& group,
                              QuantizedTensor* out) {
  if (!group.weights->symmetric) {
    return HasPackedZeroPoints(group.format, group.weights->strategy)
               ? DecodePackedZeroPoints(tensors, out)
               : DecodeByteZeroPoints(tensors, *group.weights, out);
  }
  // Symmetric schemes have none; old files carry zeros.
  if (!tensors.Has("weight_zero_point")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensor zeros, tensors.Read("weight_zero_point"));
  for (const std::byte byte : zeros.bytes) {
    if (byte != std::byte{0}) {
      return TensorError(tensors, "weight_zero_point",
                         "found a zero point other than 0, but the scheme is symmetric");
    }
  }
  KeepTensor("weight_zero_point", zeros, &out->attributes);
  return absl::OkStatus();
}

Grid GridOf(const CtArgs& args) {
  if (!args.is_float) return UniformGrid(args.num_bits, /*is_signed=*/true);
  return args.num_bits == 8 ? E4M3Grid() : args.num_bits == 6 ? E2M3Grid() : E2M1Grid();
}

absl::Status DecodeScales(const ModuleTensors& tensors, const CtGroup& group,
                          QuantizedTensor* out) {
  if (group.format == CtFormat::kNvfp4Pack) return DecodeTwoLevelScales(tensors, out);
  if (IsMx(group.format)) return DecodeExponents(tensors, out);
  return DecodeFloatScales(tensors, *group.weights, out);
}

// --- writing ---

absl::StatusOr<CtFormat> FormatNamed(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(CtFormat::kMxfp8); ++i) {
    if (NameOf(static_cast<CtFormat>(i)) == name) return static_cast<CtFormat>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown compressed-tensors format ", name));
}

absl::StatusOr<CtStrategy> StrategyNamed(absl::string_view name) {
  for (int i = 0; i <= static_cast<int>(CtStrategy::kBlock); ++i) {
    if (NameOf(static_cast<CtStrategy>(i)) == name) return static_cast<CtStrategy>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown compressed-tensors strategy ", name));
}

void EncodeCodes(const QuantizedTensor& weight, CtFormat format, std::vector<NamedTensor>* out) {
  const Shape shape = {weight.rows, weight.cols};
  switch (format) {
    case CtFormat::kPackQuantized:
      return EncodePackedWords(weight, out);
    case CtFormat::kNvfp4Pack:
    case CtFormat::kMxfp4Pack: {
      Tensor packed{DType::kU8,
                    {weight.rows, weight.cols / 2},
                    PackNibbles(weight.codes, NibbleOrder::kLowFirst, 0)};
      out->push_back({"weight_packed", std::move(packed)});
      return;
    }
    case CtFormat::kMxfp6Pack: {
      Tensor packed{DType::kU8, {weight.rows, weight.cols / 4 * 3}, PackSixBits(weight.codes)};
      out->push_back({"weight_packed", std::move(packed)});
      return;
    }
    default:
      break;
  }
  if (weight.grid.is_e4m3) {
    out->push_back({"weight", CodeTensor(DType::kF8E4M3, shape, weight.codes)});
    return;
  }
  out->push_back({"weight", CodeTensor(DType::kI8, shape, weight.codes, weight.grid.first)});
}

void EncodeScales(const QuantizedTensor& weight, CtFormat format, CtStrategy strategy,
                  std::vector<NamedTensor>* out) {
  Shape shape = ScaleShape(strategy, weight);
  if (format == CtFormat::kNvfp4Pack) {
    const NestedScales& nested = *weight.nested;
    out->push_back({"weight_scale", TensorOf<uint8_t>(DType::kF8E4M3, shape, nested.scale_codes)});
    out->push_back({"weight_global_scale", FloatTensor(DType::kF32, {1}, nested.super_scale)});
    return;
  }
  if (IsMx(format)) {
    std::vector<uint8_t> exponents;
    exponents.reserve(weight.scale.size());
    for (const float scale : weight.scale) {
      exponents.push_back(static_cast<uint8_t>(127 + std::ilogb(scale)));
    }
    const DType dtype = Attribute(weight, "ct.scale_dtype").empty() ? DType::kU8 : DType::kF8E8M0;
    out->push_back({"weight_scale", TensorOf<uint8_t>(dtype, shape, exponents)});
    return;
  }
  const std::string rank = Attribute(weight, "ct.scale_rank");
  if (rank == "0") shape = {};
  if (rank == "2") shape = {1, 1};
  if (rank == "1") shape = {weight.rows};
  out->push_back({"weight_scale", FloatTensor(weight.scale_dtype, shape, weight.scale)});
}

void EncodeZeroPoints(const QuantizedTensor& weight, CtFormat format, CtStrategy strategy,
                      std::vector<NamedTensor>* out) {
  if (weight.zero_point.empty()) return;
  if (HasPackedZeroPoints(format, strategy)) return EncodePackedZeroPoints(weight, out);
  const std::vector<int8_t> zeros(weight.zero_point.begin(), weight.zero_point.end());
  out->push_back(
      {"weight_zero_point", TensorOf<int8_t>(DType::kI8, ScaleShape(strategy, weight), zeros)});
}

}  // namespace

void MarkCompressedTensors(CtFormat format, CtStrategy strategy, QuantizedTensor* weight) {
  weight->attributes["ct.format"] = std::string(NameOf(format));
  weight->attributes["ct.strategy"] = std::string(NameOf(strategy));
}

bool CompressedTensorsCodec::IsQuantized(const ModuleTensors& tensors) const {
  if (tensors.Has("weight_packed")) return true;
  const auto weight = tensors.Describe("weight");
  if (!weight.ok()) return tensors.Has("weight_scale");
  // A weight in a wide dtype with a scale beside it comes from before compression.
  return weight->dtype == DType::kI8 || weight->dtype == DType::kF8E4M3;
}

int64_t CompressedTensorsCodec::GroupSizeOf(const ModuleInfo& module) const {
  const CtGroup* group = config_.GroupOf(module.name, "Linear");
  return group == nullptr || !group->weights ? 0 : group->weights->group_size;
}

std::vector<std::string> CompressedTensorsCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : kWeightNames) {
    if (tensors.Has(name)) names.push_back(name);
  }
  for (const char* name : kTravellers) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> CompressedTensorsCodec::MatrixShape(const ModuleTensors& tensors) const {
  const CtGroup* group = config_.GroupOf(tensors.module(), "Linear");
  if (group == nullptr || !group->weights) {
    return TensorError(tensors, tensors.Has("weight_packed") ? "weight_packed" : "weight",
                       "is quantized, but no scheme of config_groups targets the module");
  }
  return ShapeOf(tensors, group->format);
}

absl::StatusOr<QuantizedTensor> CompressedTensorsCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  const CtGroup& group = *config_.GroupOf(tensors.module(), "Linear");
  if (tensors.Has("weight") && tensors.Has("weight_packed")) {
    return TensorError(tensors, "weight", "stands beside weight_packed; expected one of them");
  }
  RETURN_IF_ERROR(CheckGroups(tensors, *group.weights, shape[1]));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.dequantized_dtype = DType::kBF16;  // unless the scales say otherwise
  out.grid = GridOf(*group.weights);
  out.block = group.weights->block();
  MarkCompressedTensors(group.format, group.weights->strategy, &out);
  RETURN_IF_ERROR(DecodeScales(tensors, group, &out));
  RETURN_IF_ERROR(DecodeCodes(tensors, group, config_.version, &out));
  RETURN_IF_ERROR(DecodeZeroPoints(tensors, group, &out));
  RETURN_IF_ERROR(DecodeColumnOrder(tensors, &out));
  if (group.inputs) {
    ASSIGN_OR_RETURN(out.input.rounding, DecodeCtInputs(tensors, *group.inputs));
  }
  for (const char* name : kTravellers) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const Tensor traveller, tensors.Read(name));
    if (traveller.bytes.size() > 65536) return TensorError(tensors, name, "is too large");
    KeepTensor(name, traveller, &out.attributes);
  }
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> CompressedTensorsCodec::Encode(
    const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name,
                   RequireAttribute(weight, "ct.format", "compressed-tensors"));
  ASSIGN_OR_RETURN(const std::string kind,
                   RequireAttribute(weight, "ct.strategy", "compressed-tensors"));
  ASSIGN_OR_RETURN(const CtFormat format, FormatNamed(name));
  ASSIGN_OR_RETURN(const CtStrategy strategy, StrategyNamed(kind));
  std::vector<NamedTensor> out;
  const bool reordered = !weight.input.permutation.empty();
  EncodeCodes(reordered ? InStoredColumnOrder(weight) : weight, format, &out);
  EncodeScales(weight, format, strategy, &out);
  EncodeZeroPoints(weight, format, strategy, &out);
  if (reordered) EncodeColumnOrder(weight, &out);
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd

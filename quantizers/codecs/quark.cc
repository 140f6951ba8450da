#include "quantizers/codecs/quark.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/compressed_tensors_pack.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/quark_inputs.h"
#include "quantizers/codecs/quark_pack.h"
#include "quantizers/codecs/quark_plain.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

using Values = QuarkSpec::Values;

// Names on disk, and those in memory that a few exports carry.
constexpr char kScale[] = "weight_scale";
constexpr char kZeroPoint[] = "weight_zero_point";
constexpr char kRawScale[] = "weight_quantizer.scale";
constexpr char kRawZeroPoint[] = "weight_quantizer.zero_point";
// Scales of activations, which are written again as they are.
constexpr const char* kTravellers[] = {"input_scale",           "input_zero_point",
                                       "output_scale",          "output_zero_point",
                                       "input_quantizer.scale", "input_quantizer.zero_point"};

constexpr char kDType[] = "quark.dtype";
constexpr char kScheme[] = "quark.scheme";
constexpr char kOrder[] = "quark.pack_method";
constexpr char kRaw[] = "quark.raw_names";

bool HasRawNames(const ModuleTensors& tensors) {
  return tensors.Has(kRawScale) && !tensors.Has(kScale);
}

int64_t Groups(const QuantizedTensor& weight) { return weight.block_columns(); }

// Values of a whole matrix: one for each block, in the order of QuantizedTensor's blocks.
Shape BlockValues(const QuarkSpec& spec, const QuantizedTensor& weight) {
  if (spec.scheme == QuarkScheme::kTensor) return {};
  if (spec.scheme == QuarkScheme::kChannel) return {weight.rows};
  return {weight.rows, Groups(weight)};
}

// Integers have the scales of their groups transposed, int3 too.
bool HasTransposedScales(const QuarkSpec& spec) {
  return spec.values == Values::kInteger && spec.scheme == QuarkScheme::kGroup;
}

Shape Reversed(Shape shape) {
  std::reverse(shape.begin(), shape.end());
  return shape;
}

Grid GridOf(const QuarkSpec& spec) {
  switch (spec.values) {
    case Values::kInteger:
      return UniformGrid(spec.bits, spec.is_signed);
    case Values::kFloat8:
      return spec.stored_dtype == DType::kF8E4M3 ? E4M3Grid() : E5M2Grid();
    case Values::kMicroscaling:
      return spec.bits == 4 ? E2M1Grid() : spec.dtype == "fp6_e2m3" ? E2M3Grid() : E3M2Grid();
    case Values::kPlain:
      break;
  }
  return QuarkPlainGrid(spec.stored_dtype);
}

int LeastCode(const QuarkSpec& spec) { return spec.is_signed ? -(1 << (spec.bits - 1)) : 0; }

// Stored width of a row of `cols` weights.
int64_t StoredWidth(const QuarkSpec& spec, int64_t cols) {
  if (spec.values == Values::kInteger) return QuarkPackedWidth(spec, cols);
  if (spec.values != Values::kMicroscaling) return cols;
  return spec.bits == 4 ? cols / 2 : cols / 4 * 3;
}

// Weights in a stored row of `width`.
int64_t ColumnsOf(const QuarkSpec& spec, int64_t width) {
  if (spec.values == Values::kMicroscaling) return spec.bits == 4 ? width * 2 : width / 3 * 4;
  if (spec.values != Values::kInteger) return width;
  return spec.bits == 3 ? width / 3 * 8 : width * QuarkCodesPerItem(spec);
}

// --- reading ---

absl::Status CheckRange(const ModuleTensors& tensors, const char* name, const QuarkSpec& spec,
                        const std::vector<int32_t>& values) {
  const int64_t least = LeastCode(spec);
  const int64_t codes = int64_t{1} << spec.bits;
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] < least || values[i] >= least + codes) {
      return TensorError(tensors, name, absl::StrCat("element ", i, " does not fit ", spec.dtype));
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeIntegers(const ModuleTensors& tensors, const QuarkSpec& spec, bool reorder,
                            QuantizedTensor* out) {
  Shape shape = {out->rows, out->cols};
  if (spec.is_transposed()) shape = Reversed(shape);
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, "weight", {spec.stored_dtype},
                                                   QuarkStoredShape(spec, shape)));
  std::vector<int32_t> values = UnpackQuark(spec, reorder, stored, shape);
  RETURN_IF_ERROR(CheckRange(tensors, "weight", spec, values));
  if (spec.is_transposed()) values = Transposed(values, shape[0], shape[1]);
  const int least = LeastCode(spec);
  for (const int32_t value : values) {
    out->codes.push_back(static_cast<uint8_t>(value - least));
  }
  return absl::OkStatus();
}

absl::Status DecodeZeroPoints(const ModuleTensors& tensors, const QuarkSpec& spec, bool reorder,
                              QuantizedTensor* out) {
  const char* name = HasRawNames(tensors) ? kRawZeroPoint : kZeroPoint;
  Shape shape = BlockValues(spec, *out);
  if (spec.is_transposed()) shape = Reversed(shape);
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, name, {spec.stored_dtype}, QuarkStoredShape(spec, shape)));
  std::vector<int32_t> values = UnpackQuark(spec, reorder, stored, shape);
  RETURN_IF_ERROR(CheckRange(tensors, name, spec, values));
  if (spec.is_transposed()) values = Transposed(values, shape[0], shape[1]);
  const bool zero =
      std::all_of(values.begin(), values.end(), [](int32_t value) { return value == 0; });
  if (spec.symmetric && !zero) {
    return TensorError(tensors, name,
                       "found a zero point other than 0, but the scheme is symmetric");
  }
  if (!spec.symmetric) out->zero_point.assign(values.begin(), values.end());
  return absl::OkStatus();
}

absl::Status DecodeBytes(const ModuleTensors& tensors, const QuarkSpec& spec,
                         QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, "weight", {spec.stored_dtype},
                                                   Shape{out->rows, StoredWidth(spec, out->cols)}));
  if (spec.values == Values::kMicroscaling) {
    out->codes = spec.bits == 4
                     ? UnpackNibbles(stored.bytes, out->rows * out->cols, NibbleOrder::kLowFirst)
                     : UnpackSixBits(stored.bytes);
    return absl::OkStatus();
  }
  out->codes = Elements<uint8_t>(stored);
  const uint8_t least = spec.stored_dtype == DType::kF8E4M3 ? 0x7f : 0x7c;
  for (size_t i = 0; i < out->codes.size(); ++i) {
    if ((out->codes[i] & 0x7f) >= least) {
      return TensorError(tensors, "weight", absl::StrCat("element ", i, " is NaN or infinite"));
    }
  }
  return absl::OkStatus();
}

absl::Status DecodeScales(const ModuleTensors& tensors, const QuarkSpec& spec,
                          QuantizedTensor* out) {
  const char* name = HasRawNames(tensors) ? kRawScale : kScale;
  Shape shape = BlockValues(spec, *out);
  if (spec.values == Values::kMicroscaling) {
    ASSIGN_OR_RETURN(const Tensor exponents, ReadTensor(tensors, name, {DType::kU8}, shape));
    for (const uint8_t byte : Elements<uint8_t>(exponents)) {
      if (byte == 255) return TensorError(tensors, name, "an exponent byte is 255 (NaN)");
      out->scale.push_back(FloatFromE8M0(byte));
    }
    out->scale_dtype = DType::kF8E8M0;
    return absl::OkStatus();
  }
  const bool transposed = HasTransposedScales(spec);
  if (transposed) shape = Reversed(shape);
  ASSIGN_OR_RETURN(
      out->scale, ReadFiniteFloats(tensors, name, {DType::kBF16, DType::kF16, DType::kF32}, shape));
  if (transposed) out->scale = Transposed(out->scale, shape[0], shape[1]);
  ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
  out->scale_dtype = stored.dtype;
  return absl::OkStatus();
}

absl::Status KeepTravellers(const ModuleTensors& tensors, QuantizedTensor* out) {
  for (const char* name : kTravellers) {
    if (!tensors.Has(name)) continue;
    ASSIGN_OR_RETURN(const TensorView stored, tensors.Describe(name));
    if (NumElements(stored.shape) > std::max(out->rows, out->cols)) {
      return TensorError(tensors, name, "expected at most one number a row or column");
    }
    ASSIGN_OR_RETURN(const Tensor kept, tensors.Read(name));
    KeepTensor(name, kept, &out->attributes);
  }
  return absl::OkStatus();
}

absl::Status DecodeParts(const ModuleTensors& tensors, const QuarkSpec& spec, bool reorder,
                         QuantizedTensor* out) {
  if (spec.values == Values::kPlain) return DecodeQuarkPlain(tensors, spec, out);
  RETURN_IF_ERROR(DecodeScales(tensors, spec, out));
  if (spec.values != Values::kInteger) return DecodeBytes(tensors, spec, out);
  RETURN_IF_ERROR(DecodeZeroPoints(tensors, spec, reorder, out));
  return DecodeIntegers(tensors, spec, reorder, out);
}

// --- writing ---

// The spec that MarkQuark left on a tensor.
absl::StatusOr<QuarkSpec> SpecOfMarks(const QuantizedTensor& weight) {
  ASSIGN_OR_RETURN(const std::string dtype, RequireAttribute(weight, kDType, "quark"));
  std::optional<QuarkSpec> spec = QuarkSpecNamed(dtype);
  if (!spec) return absl::InvalidArgumentError(absl::StrCat("unknown Quark dtype ", dtype));
  const std::string scheme = Attribute(weight, kScheme);
  spec->scheme = scheme == "tensor"    ? QuarkScheme::kTensor
                 : scheme == "channel" ? QuarkScheme::kChannel
                                       : QuarkScheme::kGroup;
  spec->group_size = weight.block.cols;
  return *spec;
}

void EncodeIntegers(const QuantizedTensor& weight, const QuarkSpec& spec, bool reorder,
                    std::vector<NamedTensor>* out) {
  const int least = LeastCode(spec);
  std::vector<int32_t> values;
  values.reserve(static_cast<size_t>(weight.rows * weight.cols));
  for (const uint8_t code : weight.codes) values.push_back(code + least);
  Shape shape = {weight.rows, weight.cols};
  Shape zero_shape = BlockValues(spec, weight);
  std::vector<int32_t> zeros(weight.zero_point.begin(), weight.zero_point.end());
  zeros.resize(weight.scale.size());
  if (spec.is_transposed()) {
    values = Transposed(values, shape[0], shape[1]);
    zeros = Transposed(zeros, zero_shape[0], zero_shape[1]);
    shape = Reversed(shape);
    zero_shape = Reversed(zero_shape);
  }
  out->push_back({"weight", PackQuark(spec, reorder, values, shape)});
  const bool raw = !Attribute(weight, kRaw).empty();
  out->push_back({raw ? kRawZeroPoint : kZeroPoint, PackQuark(spec, reorder, zeros, zero_shape)});
}

void EncodeBytes(const QuantizedTensor& weight, const QuarkSpec& spec,
                 std::vector<NamedTensor>* out) {
  const Shape shape = {weight.rows, StoredWidth(spec, weight.cols)};
  if (spec.values == Values::kFloat8) {
    out->push_back({"weight", TensorOf<uint8_t>(spec.stored_dtype, shape, weight.codes)});
    return;
  }
  out->push_back(
      {"weight", Tensor{DType::kU8, shape,
                        spec.bits == 4 ? PackNibbles(weight.codes, NibbleOrder::kLowFirst, 0)
                                       : PackSixBits(weight.codes)}});
}

void EncodeScales(const QuantizedTensor& weight, const QuarkSpec& spec,
                  std::vector<NamedTensor>* out) {
  const std::string name = Attribute(weight, kRaw).empty() ? kScale : kRawScale;
  Shape shape = BlockValues(spec, weight);
  if (spec.values == Values::kMicroscaling) {
    std::vector<uint8_t> exponents;
    exponents.reserve(weight.scale.size());
    for (const float scale : weight.scale) {
      exponents.push_back(static_cast<uint8_t>(127 + std::ilogb(scale)));
    }
    out->push_back({name, TensorOf<uint8_t>(DType::kU8, shape, exponents)});
    return;
  }
  if (!HasTransposedScales(spec)) {
    out->push_back({name, FloatTensor(weight.scale_dtype, shape, weight.scale)});
    return;
  }
  out->push_back({name, FloatTensor(weight.scale_dtype, Reversed(shape),
                                    Transposed(weight.scale, shape[0], shape[1]))});
}

}  // namespace

void MarkQuark(const QuarkSpec& spec, bool reorder, QuantizedTensor* weight) {
  weight->attributes[kDType] = spec.dtype;
  weight->attributes[kScheme] = std::string(NameOf(spec.scheme));
  weight->attributes[kOrder] = reorder ? "reorder" : "order";
}

bool QuarkCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has("weight") && (tensors.Has(kScale) || tensors.Has(kRawScale));
}

int64_t QuarkCodec::GroupSizeOf(const ModuleInfo& module) const {
  const QuarkSpec* spec = config_.SpecOf(module.name);
  return spec != nullptr && spec->scheme == QuarkScheme::kGroup ? spec->group_size : 0;
}

std::vector<std::string> QuarkCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"weight", kScale, kZeroPoint, kRawScale, kRawZeroPoint}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  for (const char* name : kTravellers) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<const QuarkSpec*> QuarkCodec::SpecOf(const ModuleTensors& tensors) const {
  const QuarkSpec* spec = config_.SpecOf(tensors.module());
  if (spec != nullptr) return spec;
  return TensorError(tensors, "weight", "is quantized, but quantization_config leaves it as it is");
}

absl::StatusOr<Shape> QuarkCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const QuarkSpec* spec, SpecOf(tensors));
  ASSIGN_OR_RETURN(Shape shape, ReadMatrixShape(tensors, "weight"));
  if (spec->is_transposed()) {
    // The packed rows may end in unused lanes: the scales know how many rows there are.
    ASSIGN_OR_RETURN(const Shape scales,
                     ReadMatrixShape(tensors, HasRawNames(tensors) ? kRawScale : kScale));
    if (QuarkPackedWidth(*spec, scales[1]) != shape[1]) {
      return TensorError(tensors, "weight",
                         absl::StrCat("found ", ToString(shape), ", expected a width of ",
                                      QuarkPackedWidth(*spec, scales[1]), " for ", scales[1],
                                      " rows of ", kScale));
    }
    shape = {scales[1], shape[0]};
  } else {
    const bool thirds = (spec->values == Values::kInteger && spec->bits == 3) ||
                        (spec->values == Values::kMicroscaling && spec->bits == 6);
    if (thirds && shape[1] % 3 != 0) {
      return TensorError(
          tensors, "weight",
          absl::StrCat("found ", shape[1], " bytes a row, expected a multiple of 3"));
    }
    shape[1] = ColumnsOf(*spec, shape[1]);
  }
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight", shape));
  return shape;
}

absl::StatusOr<QuantizedTensor> QuarkCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  ASSIGN_OR_RETURN(const QuarkSpec* spec, SpecOf(tensors));
  if (spec->scheme == QuarkScheme::kGroup && shape[1] % spec->group_size != 0) {
    return TensorError(
        tensors, "weight",
        absl::StrCat("group_size ", spec->group_size, " does not divide ", shape[1], " columns"));
  }
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = GridOf(*spec);
  out.block = spec->block();
  out.dequantized_dtype = model_dtype_;
  RETURN_IF_ERROR(DecodeParts(tensors, *spec, config_.reorder, &out));
  RETURN_IF_ERROR(KeepTravellers(tensors, &out));
  if (const QuarkLayer* layer = config_.LayerOf(tensors.module()); layer->inputs) {
    ASSIGN_OR_RETURN(out.input.rounding, DecodeQuarkInputs(tensors, *layer->inputs));
  }
  MarkQuark(*spec, config_.reorder, &out);
  if (HasRawNames(tensors)) out.attributes[kRaw] = "yes";
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> QuarkCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const QuarkSpec spec, SpecOfMarks(weight));
  std::vector<NamedTensor> out;
  if (spec.values == Values::kPlain) {
    out.push_back({"weight", TensorOf<uint16_t>(spec.stored_dtype, {weight.rows, weight.cols},
                                                weight.wide_codes)});
  } else {
    EncodeScales(weight, spec, &out);
    if (spec.values == Values::kInteger) {
      EncodeIntegers(weight, spec, Attribute(weight, kOrder) != "order", &out);
    } else {
      EncodeBytes(weight, spec, &out);
    }
  }
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

}  // namespace quantd

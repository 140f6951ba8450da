#include "quantizers/codecs/bitsandbytes.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/bitsandbytes_quant_state.h"
#include "quantizers/codecs/nibbles.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/grids/four_bit.h"

namespace quantd {
namespace {

constexpr char kStatePrefix[] = "weight.quant_state.bitsandbytes__";
constexpr size_t kMaxStateBytes = 4096;

constexpr const char* kFourBitNames[] = {"weight.absmax", "weight.quant_map",
                                         "weight.nested_absmax", "weight.nested_quant_map"};
constexpr const char* kInt8Names[] = {"SCB", "weight_format"};

// The local name of the quant_state tensor; "" when there is none.
std::string StateName(const ModuleTensors& tensors) {
  for (const std::string& name : tensors.names()) {
    if (absl::StartsWith(name, kStatePrefix)) return name;
  }
  return "";
}

bool IsInt8(const ModuleTensors& tensors) { return tensors.Has("SCB"); }

std::string AsText(const Tensor& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
}

absl::StatusOr<std::string> ReadStateText(const ModuleTensors& tensors) {
  const std::string name = StateName(tensors);
  if (name.empty()) {
    return TensorError(tensors, absl::StrCat(kStatePrefix, "nf4"),
                       "the tensor is missing; a 4-bit weight cannot be read without its state");
  }
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe(name));
  if (view.dtype != DType::kU8 || view.shape.size() != 1 || view.bytes.size() > kMaxStateBytes ||
      NumElements(view.shape) > static_cast<int64_t>(kMaxStateBytes)) {
    return TensorError(tensors, name, "expected U8 [n], a JSON text of at most 4096 bytes");
  }
  ASSIGN_OR_RETURN(const Tensor state, tensors.Read(name));
  return AsText(state);
}

absl::StatusOr<BnbQuantState> ReadState(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const std::string text, ReadStateText(tensors));
  const std::string name = StateName(tensors);
  ASSIGN_OR_RETURN(BnbQuantState state, ParseBnbQuantState(text, TensorPath(tensors, name)));
  if (name != kStatePrefix + state.quant_type) {
    return TensorError(
        tensors, name,
        absl::StrCat("the name disagrees with quant_type \"", state.quant_type, "\" inside"));
  }
  return state;
}

const FourBitTable& TableOf(absl::string_view quant_type) {
  return quant_type == "nf4" ? Nf4Table() : Fp4Table();
}

// The code that upstream stores for the value 0, which pads an odd number of elements.
uint8_t CodeOfZero(absl::string_view quant_type) { return quant_type == "nf4" ? 7 : 0; }

// The packed bytes, whatever dtype carries them.
absl::StatusOr<Tensor> ReadPacked(const ModuleTensors& tensors, int64_t elements) {
  if (!tensors.Has("weight")) return TensorError(tensors, "weight", "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe("weight"));
  const int64_t bytes = (elements + 1) / 2;
  const int64_t width = SizeOf(view.dtype);
  return ReadTensor(tensors, "weight",
                    {DType::kU8, DType::kI8, DType::kF16, DType::kBF16, DType::kF32, DType::kF64},
                    Shape{(bytes + width - 1) / width, 1});
}

// The table must hold the values that bitsandbytes has built in: it dequantizes with those.
absl::Status CheckQuantMap(const ModuleTensors& tensors, const FourBitTable& table,
                           QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const std::vector<float> map,
                   ReadFiniteFloats(tensors, "weight.quant_map", {DType::kF32}, Shape{16}));
  if (!std::equal(map.begin(), map.end(), table.values.begin())) {
    return TensorError(tensors, "weight.quant_map", "not the table of this quant_type");
  }
  if (std::memcmp(map.data(), table.values.data(), sizeof(table.values)) != 0) {
    KeepTensor("weight.quant_map", FloatTensor(DType::kF32, {16}, map), &out->attributes);
  }
  return absl::OkStatus();
}

absl::Status ReadNestedScales(const ModuleTensors& tensors, const BnbQuantState& state,
                              QuantizedTensor* out) {
  const int64_t blocks = out->block_count();
  const int64_t supers = (blocks + state.nested_blocksize - 1) / state.nested_blocksize;
  ASSIGN_OR_RETURN(const Tensor codes,
                   ReadTensor(tensors, "weight.absmax", {DType::kU8}, Shape{blocks}));
  NestedScales nested;
  nested.scale_codes = Elements<uint8_t>(codes);
  nested.super_size = state.nested_blocksize;
  ASSIGN_OR_RETURN(nested.super_scale,
                   ReadFiniteFloats(tensors, "weight.nested_absmax", {DType::kF32}, Shape{supers}));
  ASSIGN_OR_RETURN(nested.code_table,
                   ReadFiniteFloats(tensors, "weight.nested_quant_map", {DType::kF32}, Shape{256}));
  nested.shift = state.nested_offset;
  out->scale.resize(static_cast<size_t>(blocks));
  for (int64_t b = 0; b < blocks; ++b) {
    out->scale[b] =
        nested.code_table[nested.scale_codes[b]] * nested.super_scale[b / nested.super_size] +
        nested.shift;
    if (!std::isfinite(out->scale[b])) {
      return TensorError(tensors, "weight.absmax",
                         absl::StrCat("the scale of block ", b, " overflows float32"));
    }
  }
  out->nested = std::move(nested);
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> DecodeFourBit(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const BnbQuantState state, ReadState(tensors));
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight", state.shape));
  const FourBitTable& table = TableOf(state.quant_type);
  QuantizedTensor out;
  out.rows = state.shape[0];
  out.cols = state.shape[1];
  out.dequantized_dtype = state.dtype;
  out.grid = TableGrid(4, {table.values.begin(), table.values.end()});
  out.block = {.rows = 1, .cols = state.blocksize, .flat = true};
  ASSIGN_OR_RETURN(const Tensor packed, ReadPacked(tensors, out.rows * out.cols));
  RETURN_IF_ERROR(CheckQuantMap(tensors, table, &out));
  if (state.is_nested) {
    RETURN_IF_ERROR(ReadNestedScales(tensors, state, &out));
  } else {
    ASSIGN_OR_RETURN(out.scale, ReadFiniteFloats(tensors, "weight.absmax", {DType::kF32},
                                                 Shape{out.block_count()}));
  }
  out.codes = UnpackNibbles(packed.bytes, out.rows * out.cols, NibbleOrder::kHighFirst);
  out.attributes[kBnbQuantType] = state.quant_type;
  out.attributes[kBnbStorage] = std::string(InfoOf(packed.dtype).torch_name);
  // Another order of keys or other blanks mean the same; they are kept.
  ASSIGN_OR_RETURN(const std::string text, ReadStateText(tensors));
  if (text != WriteBnbQuantState(state)) out.attributes["bnb.quant_state"] = text;
  return out;
}

absl::StatusOr<QuantizedTensor> DecodeInt8(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const Shape shape, ReadMatrixShape(tensors, "weight"));
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  out.post_scale = kInverse127;
  ASSIGN_OR_RETURN(const Tensor weight, ReadTensor(tensors, "weight", {DType::kI8}, shape));
  ASSIGN_OR_RETURN(out.scale, ReadFiniteFloats(tensors, "SCB", {DType::kF32}, Shape{out.rows}));
  if (tensors.Has("weight_format")) {
    ASSIGN_OR_RETURN(const Tensor format,
                     ReadTensor(tensors, "weight_format", {DType::kU8}, Shape{}));
    if (format.bytes[0] != std::byte{0}) {
      return TensorError(tensors, "weight_format",
                         absl::StrCat("found ", static_cast<int>(format.bytes[0]),
                                      ", expected 0 (row); save the checkpoint again with a "
                                      "current bitsandbytes"));
    }
    KeepTensor("weight_format", format, &out.attributes);
  }
  out.codes = Elements<uint8_t>(weight);
  for (uint8_t& code : out.codes) code ^= 0x80;  // two's complement to offset binary
  out.attributes[kBnbQuantType] = "int8";
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> EncodeInt8(const QuantizedTensor& weight) {
  std::vector<NamedTensor> out;
  out.push_back({"weight", CodeTensor(DType::kI8, {weight.rows, weight.cols}, weight.codes, -128)});
  out.push_back({"SCB", FloatTensor(DType::kF32, {weight.rows}, weight.scale)});
  for (NamedTensor& kept : KeptTensors(weight.attributes)) out.push_back(std::move(kept));
  return out;
}

absl::StatusOr<Tensor> PackedTensor(const QuantizedTensor& weight, absl::string_view quant_type) {
  ASSIGN_OR_RETURN(const std::string storage,
                   RequireAttribute(weight, kBnbStorage, "bitsandbytes"));
  const DType dtype = DTypeFromTorch(storage).value_or(DType::kU8);
  Tensor packed;
  packed.dtype = dtype;
  packed.bytes = PackNibbles(weight.codes, NibbleOrder::kHighFirst, CodeOfZero(quant_type));
  const int64_t width = SizeOf(dtype);
  if (static_cast<int64_t>(packed.bytes.size()) % width != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("bnb_4bit_quant_storage ", storage, ": ", packed.bytes.size(),
                     " packed bytes are no whole number of elements; use uint8"));
  }
  packed.shape = {static_cast<int64_t>(packed.bytes.size()) / width, 1};
  return packed;
}

absl::StatusOr<std::vector<NamedTensor>> EncodeFourBit(const QuantizedTensor& weight,
                                                       const std::string& quant_type) {
  BnbQuantState state{.quant_type = quant_type,
                      .blocksize = weight.block.cols,
                      .dtype = weight.dequantized_dtype,
                      .shape = {weight.rows, weight.cols}};
  std::vector<NamedTensor> out;
  ASSIGN_OR_RETURN(Tensor packed, PackedTensor(weight, quant_type));
  out.push_back({"weight", std::move(packed)});
  const int64_t blocks = static_cast<int64_t>(weight.scale.size());
  if (weight.nested) {
    const NestedScales& nested = *weight.nested;
    state.is_nested = true;
    state.nested_blocksize = nested.super_size;
    state.nested_offset = nested.shift;
    out.push_back({"weight.absmax", TensorOf<uint8_t>(DType::kU8, {blocks}, nested.scale_codes)});
    const int64_t supers = static_cast<int64_t>(nested.super_scale.size());
    out.push_back({"weight.nested_absmax", FloatTensor(DType::kF32, {supers}, nested.super_scale)});
    out.push_back({"weight.nested_quant_map", FloatTensor(DType::kF32, {256}, nested.code_table)});
  } else {
    out.push_back({"weight.absmax", FloatTensor(DType::kF32, {blocks}, weight.scale)});
  }
  const auto kept = KeptTensors(weight.attributes);
  out.push_back(kept.empty() ? NamedTensor{"weight.quant_map",
                                           FloatTensor(DType::kF32, {16}, weight.grid.table)}
                             : kept.front());
  std::string text = Attribute(weight, "bnb.quant_state");
  if (text.empty()) text = WriteBnbQuantState(state);
  out.push_back(
      {kStatePrefix + quant_type, TensorOf<char>(DType::kU8, {static_cast<int64_t>(text.size())},
                                                 std::span<const char>(text.data(), text.size()))});
  return out;
}

}  // namespace

void MarkLlmInt8(QuantizedTensor* weight) {
  weight->post_scale = kInverse127;
  weight->attributes[kBnbQuantType] = "int8";
  KeepTensor("weight_format", MakeTensor(DType::kU8, {}), &weight->attributes);
}

bool BitsAndBytesCodec::IsQuantized(const ModuleTensors& tensors) const {
  for (const char* name : kFourBitNames) {
    if (tensors.Has(name)) return true;
  }
  for (const char* name : kInt8Names) {
    if (tensors.Has(name)) return true;
  }
  if (!StateName(tensors).empty()) return true;
  // A weight of integers whose companions are missing is broken, not plain.
  const auto weight = tensors.Describe("weight");
  return weight.ok() && (weight->dtype == DType::kU8 || weight->dtype == DType::kI8);
}

std::vector<std::string> BitsAndBytesCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const std::string& name : tensors.names()) {
    const bool ours = name == "weight" || absl::StartsWith(name, kStatePrefix) ||
                      std::count(std::begin(kFourBitNames), std::end(kFourBitNames), name) > 0 ||
                      std::count(std::begin(kInt8Names), std::end(kInt8Names), name) > 0;
    if (ours) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> BitsAndBytesCodec::MatrixShape(const ModuleTensors& tensors) const {
  const auto weight = tensors.Describe("weight");
  if (IsInt8(tensors) ||
      (weight.ok() && weight->dtype == DType::kI8 && StateName(tensors).empty())) {
    return ReadMatrixShape(tensors, "weight");
  }
  ASSIGN_OR_RETURN(const BnbQuantState state, ReadState(tensors));
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight", state.shape));
  return state.shape;
}

absl::StatusOr<QuantizedTensor> BitsAndBytesCodec::Decode(const ModuleTensors& tensors) const {
  const auto weight = tensors.Describe("weight");
  const bool bare_int8 = weight.ok() && weight->dtype == DType::kI8 && StateName(tensors).empty();
  return IsInt8(tensors) || bare_int8 ? DecodeInt8(tensors) : DecodeFourBit(tensors);
}

absl::StatusOr<std::vector<NamedTensor>> BitsAndBytesCodec::Encode(
    const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string type, RequireAttribute(weight, kBnbQuantType, "bitsandbytes"));
  return type == "int8" ? EncodeInt8(weight) : EncodeFourBit(weight, type);
}

}  // namespace quantd

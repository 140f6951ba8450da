#include "quantizers/codecs/gptq.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/gptq_columns.h"
#include "quantizers/codecs/gptq_zeros.h"
#include "quantizers/codecs/marlin_packing.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kFormat[] = "gptq.format";
constexpr char kZeros[] = "gptq.zeros";  // how qzeros spells them, see GptqZeros
constexpr char kNames[] = "gptq.names";  // of Marlin's tensors: "B,s" or "qweight,scales"
constexpr char kNoIndex[] = "gptq.no_g_idx";

constexpr const char* kPlainNames[] = {"qweight", "qzeros", "scales", "g_idx"};

WordPacking PackingOf(GptqFormat format) {
  return format == GptqFormat::kPlanar ? WordPacking::kPlanar : WordPacking::kDense;
}

// What the stored shapes and the configuration say of a layer.
struct Layer {
  GptqFormat format = GptqFormat::kV1;
  GptqParameters parameters;
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t group() const { return parameters.GroupSize(cols); }
  int64_t groups() const { return (cols + group() - 1) / group(); }
};

bool HasMarlinNames(const ModuleTensors& tensors) { return tensors.Has("B") && tensors.Has("s"); }

Tensor WordTensor(Shape shape, const std::vector<uint32_t>& words) {
  return TensorOf<uint32_t>(DType::kI32, std::move(shape), words);
}

// Columns of the matrix: as many as g_idx has entries or, without one, as the words hold.
absl::StatusOr<int64_t> ColumnsOf(const ModuleTensors& tensors, int64_t word_rows, int bits) {
  if (!tensors.Has("g_idx")) return word_rows * 32 / bits;
  ASSIGN_OR_RETURN(const TensorView index, tensors.Describe("g_idx"));
  if (index.shape.size() == 1 && index.shape[0] > 0) return index.shape[0];
  return TensorError(tensors, "g_idx",
                     absl::StrCat("found the shape ", ToString(index.shape),
                                  ", expected a group for every input channel"));
}

absl::Status CheckStoredShape(const ModuleTensors& tensors, const char* name, const Shape& expected,
                              const Layer& layer) {
  ASSIGN_OR_RETURN(const Shape found, ReadMatrixShape(tensors, name));
  if (found == expected) return absl::OkStatus();
  return TensorError(
      tensors, name,
      absl::StrCat("found the shape ", ToString(found), ", expected ", ToString(expected), " for ",
                   layer.rows, " rows, ", layer.cols, " columns, ", layer.parameters.bits,
                   " bits and group_size ", layer.parameters.group_size));
}

absl::StatusOr<Layer> DescribeMarlin(const ModuleTensors& tensors, GptqParameters parameters) {
  const char* codes = HasMarlinNames(tensors) ? "B" : "qweight";
  const char* scales = HasMarlinNames(tensors) ? "s" : "scales";
  Layer layer{.format = GptqFormat::kMarlin, .parameters = parameters};
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, codes));
  layer.rows = words[1] / 2;
  layer.cols = words[0] * 16;
  if (words[1] % 128 != 0) {
    return TensorError(tensors, codes,
                       absl::StrCat("found ", words[1],
                                    " words a row, expected a multiple of 128: Marlin's tiles "
                                    "cover 64 outputs"));
  }
  RETURN_IF_ERROR(CheckMatrixShape(tensors, codes, {layer.rows, layer.cols}));
  RETURN_IF_ERROR(CheckStoredShape(tensors, scales, {layer.groups(), layer.rows}, layer));
  return layer;
}

absl::StatusOr<Layer> DescribePlain(const ModuleTensors& tensors, GptqFormat format,
                                    GptqParameters parameters) {
  for (const char* name : {"qweight", "scales", "qzeros"}) {
    if (!tensors.Has(name)) {
      return TensorError(tensors, name,
                         "the tensor is missing; the quantized weight cannot be read without it");
    }
  }
  Layer layer{.format = format, .parameters = parameters};
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, "qweight"));
  ASSIGN_OR_RETURN(layer.cols, ColumnsOf(tensors, words[0], parameters.bits));
  layer.rows = words[1];
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "qweight", {layer.rows, layer.cols}));
  const WordPacking packing = PackingOf(format);
  const int64_t height = WordsPerRow(layer.cols, parameters.bits, packing);
  const int64_t width = WordsPerRow(layer.rows, parameters.bits, packing);
  RETURN_IF_ERROR(CheckStoredShape(tensors, "qweight", {height, layer.rows}, layer));
  RETURN_IF_ERROR(CheckStoredShape(tensors, "scales", {layer.groups(), layer.rows}, layer));
  RETURN_IF_ERROR(CheckStoredShape(tensors, "qzeros", {layer.groups(), width}, layer));
  return layer;
}

absl::StatusOr<Layer> DescribeLayer(const ModuleTensors& tensors, const GptqConfig& config) {
  // A rule may keep a module that is stored quantized nevertheless: then it is like the others.
  const GptqParameters told = config.Find(tensors.module()).value_or(config.parameters);
  if (config.format == GptqFormat::kMarlin) return DescribeMarlin(tensors, told);
  absl::StatusOr<Layer> layer = DescribePlain(tensors, config.format, told);
  if (layer.ok() || !config.lm_head) return layer;
  // GPTQModel has a rule for output embeddings that is not always written down.
  GptqConfig with_head_rule = config;
  with_head_rule.dynamic.push_back(GptqHeadRule());
  const std::optional<GptqParameters> head = with_head_rule.Find(tensors.module());
  if (!head) return layer;
  absl::StatusOr<Layer> by_rule = DescribePlain(tensors, config.format, *head);
  return by_rule.ok() ? by_rule : layer;
}

absl::Status DecodeScales(const ModuleTensors& tensors, const char* name, const Layer& layer,
                          QuantizedTensor* out) {
  const Shape shape = {layer.groups(), layer.rows};
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, name, {DType::kF16, DType::kBF16, DType::kF32}, shape));
  ASSIGN_OR_RETURN(out->scale, ReadFiniteFloats(tensors, name, {stored.dtype}, shape));
  out->scale_dtype = out->dequantized_dtype = stored.dtype;
  return absl::OkStatus();
}

QuantizedTensor StartOf(const Layer& layer) {
  QuantizedTensor out;
  out.rows = layer.rows;
  out.cols = layer.cols;
  out.grid = UniformGrid(layer.parameters.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = layer.group()};
  out.attributes[kFormat] = std::string(NameOf(layer.format));
  return out;
}

absl::StatusOr<QuantizedTensor> DecodeMarlin(const ModuleTensors& tensors, const Layer& layer) {
  const bool own_names = HasMarlinNames(tensors);
  QuantizedTensor out = StartOf(layer);
  ASSIGN_OR_RETURN(const Tensor words,
                   ReadTensor(tensors, own_names ? "B" : "qweight", {DType::kI32}, std::nullopt));
  out.codes = UnpackMarlin(Elements<uint32_t>(words), layer.rows, layer.cols);
  RETURN_IF_ERROR(DecodeScales(tensors, own_names ? "s" : "scales", layer, &out));
  out.scale = FromMarlinScales(out.scale, layer.rows, layer.groups());
  out.zero_point.assign(out.scale.size(), 8.0f);
  out.attributes.emplace(kNames, own_names ? "B,s" : "qweight,scales");
  return out;
}

std::vector<NamedTensor> EncodeMarlin(const QuantizedTensor& weight) {
  const int64_t groups = weight.block_columns();
  const bool other_names = Attribute(weight, kNames) == "qweight,scales";
  std::vector<NamedTensor> out;
  out.push_back({other_names ? "qweight" : "B",
                 WordTensor({weight.cols / 16, weight.rows * 2},
                            PackMarlin(weight.codes, weight.rows, weight.cols))});
  out.push_back({other_names ? "scales" : "s",
                 FloatTensor(weight.scale_dtype, {groups, weight.rows},
                             ToMarlinScales(weight.scale, weight.rows, groups))});
  return out;
}

// Zero points as codes; INVALID_ARGUMENT unless they are whole and on the grid.
absl::StatusOr<std::vector<uint8_t>> ZeroCodes(const QuantizedTensor& weight) {
  std::vector<uint8_t> codes;
  codes.reserve(weight.zero_point.size());
  const float most = static_cast<float>((1 << weight.grid.bits) - 1);
  for (const float zero : weight.zero_point) {
    if (!(zero >= 0 && zero <= most && zero == std::trunc(zero))) {
      return absl::InvalidArgumentError(
          absl::StrCat("a zero point is ", zero, ", expected a whole number from 0 to ", most));
    }
    codes.push_back(static_cast<uint8_t>(zero));
  }
  return codes;
}

}  // namespace

void MarkGptq(GptqFormat format, QuantizedTensor* weight) {
  weight->attributes[kFormat] = std::string(NameOf(format));
  const GptqZeros zeros = format == GptqFormat::kV1 ? GptqZeros::kWordMinusOne : GptqZeros::kPlain;
  weight->attributes[kZeros] = std::string(NameOf(zeros));
}

bool GptqCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has("qweight") ||
         (config_.format == GptqFormat::kMarlin && HasMarlinNames(tensors));
}

std::vector<std::string> GptqCodec::WeightTensors(const ModuleTensors& tensors) const {
  if (config_.format == GptqFormat::kMarlin && HasMarlinNames(tensors)) return {"B", "s"};
  std::vector<std::string> names;
  for (const char* name : kPlainNames) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> GptqCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Layer layer, DescribeLayer(tensors, config_));
  return Shape{layer.rows, layer.cols};
}

absl::StatusOr<QuantizedTensor> GptqCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Layer layer, DescribeLayer(tensors, config_));
  if (layer.format == GptqFormat::kMarlin) return DecodeMarlin(tensors, layer);
  QuantizedTensor out = StartOf(layer);
  const int bits = layer.parameters.bits;
  const WordPacking packing = PackingOf(layer.format);
  RETURN_IF_ERROR(DecodeScales(tensors, "scales", layer, &out));
  out.scale = Transposed(out.scale, layer.groups(), layer.rows);

  ASSIGN_OR_RETURN(const Tensor zeros, ReadTensor(tensors, "qzeros", {DType::kI32}, std::nullopt));
  const std::vector<uint32_t> zero_words = Elements<uint32_t>(zeros);
  GptqZeros spelling = GptqZeros::kPlain;
  if (layer.format == GptqFormat::kV1) {
    spelling = config_.word_zeros ? GptqZeros::kWordMinusOne : GptqZeros::kFieldMinusOne;
  }
  const GptqZeroTable table{layer.groups(), layer.rows, bits, packing};
  if (layer.parameters.sym) spelling = SymmetricSpelling(table, zero_words, spelling);
  out.attributes[kZeros] = std::string(NameOf(spelling));
  const std::vector<uint8_t> zero_codes = UnpackGptqZeros(table, zero_words, spelling);
  const std::vector<uint8_t> by_row = Transposed(zero_codes, layer.groups(), layer.rows);
  out.zero_point.assign(by_row.begin(), by_row.end());

  ASSIGN_OR_RETURN(const Tensor codes, ReadTensor(tensors, "qweight", {DType::kI32}, std::nullopt));
  out.codes = UnpackWords(
      Transposed(Elements<uint32_t>(codes), WordsPerRow(layer.cols, bits, packing), layer.rows),
      layer.rows, layer.cols, bits, packing);
  if (!tensors.Has("g_idx")) {
    out.attributes.emplace(kNoIndex, "1");
    return out;
  }
  ASSIGN_OR_RETURN(const Tensor index,
                   ReadTensor(tensors, "g_idx", {DType::kI32}, Shape{layer.cols}));
  ASSIGN_OR_RETURN(std::vector<int32_t> order,
                   GroupOrder(tensors, Elements<int32_t>(index), layer.group()));
  if (!order.empty()) GatherColumns(std::move(order), &out);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> GptqCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name, RequireAttribute(weight, kFormat, quant_method()));
  if (name == NameOf(GptqFormat::kMarlin)) return EncodeMarlin(weight);
  const WordPacking packing = PackingOf(GptqFormatNamed(name).value_or(GptqFormat::kV1));
  const GptqZeros spelling = GptqZerosNamed(Attribute(weight, kZeros));
  const int bits = weight.grid.bits;
  const int64_t groups = weight.block_columns();
  ASSIGN_OR_RETURN(const std::vector<uint8_t> zeros, ZeroCodes(weight));
  const bool permuted = !weight.input.permutation.empty();
  const std::vector<uint32_t> words = PackWords(permuted ? CodesInInputOrder(weight) : weight.codes,
                                                weight.rows, weight.cols, bits, packing);
  const int64_t height = WordsPerRow(weight.cols, bits, packing);
  std::vector<NamedTensor> out;
  out.push_back(
      {"qweight", WordTensor({height, weight.rows}, Transposed(words, weight.rows, height))});
  out.push_back(
      {"qzeros", WordTensor({groups, WordsPerRow(weight.rows, bits, packing)},
                            PackGptqZeros({groups, weight.rows, bits, packing},
                                          Transposed(zeros, weight.rows, groups), spelling))});
  out.push_back({"scales", FloatTensor(weight.scale_dtype, {groups, weight.rows},
                                       Transposed(weight.scale, weight.rows, groups))});
  if (Attribute(weight, kNoIndex).empty()) {
    out.push_back({"g_idx", TensorOf<int32_t>(DType::kI32, {weight.cols}, GroupIndex(weight))});
  }
  return out;
}

}  // namespace quantd

#include "quantizers/codecs/awq.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/awq_packing.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/marlin_packing.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kVersion[] = "awq.version";
constexpr char kInterleaved[] = "awq.interleaved";

// The facts of one stored matrix, from config and shapes.
struct Stored {
  AwqVersion version = AwqVersion::kGemm;
  bool interleaved = true;
  int bits = 4;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t group_size = 0;

  int64_t groups() const { return cols / group_size; }
  // Groups as gemv and gemv_fast pad them.
  int64_t padded_groups() const { return GemvZeroWords(groups(), group_size) * 8; }
};

// The width that fills words [.., width] with `rows` codes; 0 when none does.
int BitsOf(int64_t width, int64_t rows) {
  for (int bits = 2; bits <= 8; ++bits) {
    if (WordsPerRow(rows, bits, WordPacking::kDense) == width) return bits;
  }
  return 0;
}

absl::StatusOr<Shape> ScalesShape(const ModuleTensors& tensors) {
  if (!tensors.Has("scales")) return TensorError(tensors, "scales", "the tensor is missing");
  return ReadMatrixShape(tensors, "scales");
}

// [out, in] of gemm, whose words need not be full: the scales have one column for each output.
absl::Status ReadGemmShape(const ModuleTensors& tensors, const AwqConfig& config,
                           const Shape& words, Stored* stored) {
  ASSIGN_OR_RETURN(const Shape scales, ScalesShape(tensors));
  stored->rows = scales[1];
  stored->cols = words[0];
  stored->bits = config.varies ? BitsOf(words[1], stored->rows) : config.bits;
  stored->interleaved = config.Interleaves(stored->bits);
  if (config.varies) stored->group_size = stored->cols / scales[0];
  const int64_t width =
      stored->bits == 0 ? 0 : WordsPerRow(stored->rows, stored->bits, WordPacking::kDense);
  if (words[1] == width) return absl::OkStatus();
  return TensorError(
      tensors, "qweight",
      absl::StrCat("found ", words[1], " columns, expected ", width, ": ", config.bits,
                   " bits for each of the ", stored->rows, " columns of scales"));
}

absl::Status CheckStored(const ModuleTensors& tensors, const Stored& stored) {
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "qweight", {stored.rows, stored.cols}));
  if (stored.group_size <= 0) return TensorError(tensors, "scales", "more groups than columns");
  const absl::Status status = CheckAwqShape(stored.version, stored.interleaved, stored.bits,
                                            stored.group_size, stored.rows, stored.cols);
  return status.ok() ? status : TensorError(tensors, "qweight", status.message());
}

absl::StatusOr<Stored> ReadStored(const ModuleTensors& tensors, const AwqConfig& config) {
  if (!tensors.Has("qweight")) {
    return TensorError(tensors, "qweight",
                       "missing beside scales; a ScaledActivation of AutoAWQ, which divides the "
                       "outputs of an activation, belongs to no model family that is read here");
  }
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, "qweight"));
  Stored stored;
  stored.version = config.version;
  switch (config.version) {
    case AwqVersion::kGemm:
      RETURN_IF_ERROR(ReadGemmShape(tensors, config, words, &stored));
      break;
    case AwqVersion::kGemv:
      stored.rows = words[0];
      stored.cols = words[1] * 8;
      break;
    case AwqVersion::kGemvFast:
      stored.rows = words[0] * 4;
      stored.cols = words[1];
      break;
    case AwqVersion::kMarlin:
      stored.rows = words[1] / 2;
      stored.cols = words[0] * 16;
      break;
  }
  if (stored.group_size == 0) {
    stored.group_size = config.group_size == -1 ? stored.cols : config.group_size;
  }
  RETURN_IF_ERROR(CheckStored(tensors, stored));
  return stored;
}

absl::StatusOr<std::vector<uint32_t>> ReadWords(const ModuleTensors& tensors,
                                                absl::string_view name, const Shape& shape) {
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, name, {DType::kI32}, shape));
  return Elements<uint32_t>(words);
}

// The first `count` values of rows of `width`; INVALID_ARGUMENT unless the others are zero.
template <class T>
absl::StatusOr<std::vector<T>> WithoutPadding(const ModuleTensors& tensors, absl::string_view name,
                                              const std::vector<T>& values, int64_t width,
                                              int64_t count) {
  std::vector<T> out;
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(width)) {
    const auto begin = values.begin() + static_cast<int64_t>(row);
    out.insert(out.end(), begin, begin + count);
    if (std::any_of(begin + count, begin + width, [](T value) { return value != T{0}; })) {
      return TensorError(tensors, name, "the padding behind the last group is not zero");
    }
  }
  return out;
}

template <class T>
std::vector<T> WithPadding(const std::vector<T>& values, int64_t count, int64_t width) {
  std::vector<T> out;
  for (size_t row = 0; row < values.size(); row += static_cast<size_t>(count)) {
    const auto begin = values.begin() + static_cast<int64_t>(row);
    out.insert(out.end(), begin, begin + count);
    out.resize(out.size() + static_cast<size_t>(width - count));
  }
  return out;
}

// Codes of a matrix packed along its outputs: words [lines, ..] to codes [lines, rows].
std::vector<uint8_t> UnpackOutputs(const std::vector<uint32_t>& words, int64_t lines,
                                   const Stored& stored) {
  std::vector<uint8_t> codes =
      UnpackWords(words, lines, stored.rows, stored.bits, WordPacking::kDense);
  if (stored.interleaved) DeinterleaveEights(lines, stored.rows, &codes);
  return codes;
}

std::vector<uint32_t> PackOutputs(std::vector<uint8_t> codes, int64_t lines, const Stored& stored) {
  if (stored.interleaved) InterleaveEights(lines, stored.rows, &codes);
  return PackWords(codes, lines, stored.rows, stored.bits, WordPacking::kDense);
}

absl::Status DecodeGemm(const ModuleTensors& tensors, const Stored& stored, QuantizedTensor* out) {
  const int64_t groups = stored.groups();
  const int64_t width = WordsPerRow(stored.rows, stored.bits, WordPacking::kDense);
  ASSIGN_OR_RETURN(const auto words, ReadWords(tensors, "qweight", {stored.cols, width}));
  ASSIGN_OR_RETURN(const auto zeros, ReadWords(tensors, "qzeros", {groups, width}));
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadFiniteFloats(tensors, "scales", {DType::kF16, DType::kBF16, DType::kF32},
                                    Shape{groups, stored.rows}));
  ASSIGN_OR_RETURN(const TensorView view, tensors.Describe("scales"));
  out->scale_dtype = view.dtype;
  out->codes = Transposed(UnpackOutputs(words, stored.cols, stored), stored.cols, stored.rows);
  const auto zero = Transposed(UnpackOutputs(zeros, groups, stored), groups, stored.rows);
  out->zero_point.assign(zero.begin(), zero.end());
  out->scale = Transposed(scales, groups, stored.rows);
  return absl::OkStatus();
}

absl::Status DecodeGemv(const ModuleTensors& tensors, const Stored& stored, QuantizedTensor* out) {
  const int64_t groups = stored.groups();
  const int64_t padded = stored.padded_groups();
  ASSIGN_OR_RETURN(const auto words, ReadWords(tensors, "qweight", {stored.rows, stored.cols / 8}));
  ASSIGN_OR_RETURN(const auto zeros, ReadWords(tensors, "qzeros", {stored.rows, padded / 8}));
  ASSIGN_OR_RETURN(const std::vector<float> scales,
                   ReadFiniteFloats(tensors, "scales", {DType::kF16}, Shape{stored.rows, padded}));
  out->codes = UnpackWords(words, stored.rows, stored.cols, 4, WordPacking::kDense);
  ASSIGN_OR_RETURN(const auto zero,
                   WithoutPadding(tensors, "qzeros",
                                  UnpackWords(zeros, stored.rows, padded, 4, WordPacking::kDense),
                                  padded, groups));
  out->zero_point.assign(zero.begin(), zero.end());
  ASSIGN_OR_RETURN(out->scale, WithoutPadding(tensors, "scales", scales, padded, groups));
  return absl::OkStatus();
}

absl::Status DecodeGemvFast(const ModuleTensors& tensors, const Stored& stored,
                            QuantizedTensor* out) {
  const int64_t padded = stored.padded_groups();
  const Shape shape = {padded, stored.rows};
  ASSIGN_OR_RETURN(const Tensor words, ReadTensor(tensors, "qweight", {DType::kI16},
                                                  Shape{stored.rows / 4, stored.cols}));
  const auto read = [&](absl::string_view name) -> absl::StatusOr<std::vector<float>> {
    ASSIGN_OR_RETURN(const auto values, ReadFiniteFloats(tensors, name, {DType::kF16}, shape));
    return WithoutPadding(tensors, name, Transposed(values, padded, stored.rows), padded,
                          stored.groups());
  };
  out->codes = UnpackGemvFast(Elements<uint16_t>(words), stored.rows, stored.cols);
  ASSIGN_OR_RETURN(out->scale, read("scales"));
  ASSIGN_OR_RETURN(out->offset, read("qzeros"));
  return absl::OkStatus();
}

absl::Status DecodeMarlin(const ModuleTensors& tensors, const Stored& stored,
                          QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const auto words,
                   ReadWords(tensors, "qweight", {stored.cols / 16, stored.rows * 2}));
  ASSIGN_OR_RETURN(
      const std::vector<float> scales,
      ReadFiniteFloats(tensors, "scales", {DType::kF16}, Shape{stored.groups(), stored.rows}));
  out->grid = UniformGrid(4, /*is_signed=*/true);
  out->codes = UnpackMarlin(words, stored.rows, stored.cols);
  out->scale = FromMarlinScales(scales, stored.rows, stored.groups());
  return absl::OkStatus();
}

Tensor WordTensor(Shape shape, const std::vector<uint32_t>& words) {
  return TensorOf<uint32_t>(DType::kI32, std::move(shape), words);
}

std::vector<NamedTensor> EncodeGemm(const QuantizedTensor& weight, const Stored& stored) {
  const int64_t groups = stored.groups();
  const int64_t width = WordsPerRow(stored.rows, stored.bits, WordPacking::kDense);
  const std::vector<uint8_t> zero(weight.zero_point.begin(), weight.zero_point.end());
  const auto codes = Transposed(weight.codes, stored.rows, stored.cols);
  const auto zeros = Transposed(zero, stored.rows, groups);
  return {{"qweight", WordTensor({stored.cols, width}, PackOutputs(codes, stored.cols, stored))},
          {"qzeros", WordTensor({groups, width}, PackOutputs(zeros, groups, stored))},
          {"scales", FloatTensor(weight.scale_dtype, {groups, stored.rows},
                                 Transposed(weight.scale, stored.rows, groups))}};
}

std::vector<NamedTensor> EncodeGemv(const QuantizedTensor& weight, const Stored& stored) {
  const int64_t padded = stored.padded_groups();
  const std::vector<uint8_t> zero(weight.zero_point.begin(), weight.zero_point.end());
  const auto zeros = WithPadding(zero, stored.groups(), padded);
  const auto pack = [&](std::span<const uint8_t> codes, int64_t cols) {
    return WordTensor({stored.rows, cols / 8},
                      PackWords(codes, stored.rows, cols, 4, WordPacking::kDense));
  };
  return {{"qweight", pack(weight.codes, stored.cols)},
          {"qzeros", pack(zeros, padded)},
          {"scales", FloatTensor(DType::kF16, {stored.rows, padded},
                                 WithPadding(weight.scale, stored.groups(), padded))}};
}

std::vector<NamedTensor> EncodeGemvFast(const QuantizedTensor& weight, const Stored& stored) {
  const int64_t padded = stored.padded_groups();
  const auto write = [&](const std::vector<float>& values) {
    return FloatTensor(
        DType::kF16, {padded, stored.rows},
        Transposed(WithPadding(values, stored.groups(), padded), stored.rows, padded));
  };
  return {{"qweight", TensorOf<uint16_t>(DType::kI16, {stored.rows / 4, stored.cols},
                                         PackGemvFast(weight.codes, stored.rows, stored.cols))},
          {"qzeros", write(weight.offset)},
          {"scales", write(weight.scale)}};
}

std::vector<NamedTensor> EncodeMarlin(const QuantizedTensor& weight, const Stored& stored) {
  return {{"qweight", WordTensor({stored.cols / 16, stored.rows * 2},
                                 PackMarlin(weight.codes, stored.rows, stored.cols))},
          {"scales", FloatTensor(DType::kF16, {stored.groups(), stored.rows},
                                 ToMarlinScales(weight.scale, stored.rows, stored.groups()))}};
}

absl::Status Multiple(absl::string_view what, int64_t found, int64_t of, absl::string_view layout) {
  if (found % of == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("found ", found, " ", what, ", expected a multiple of ", of, " (", layout, ")"));
}

}  // namespace

void MarkAwq(AwqVersion version, bool interleaved, QuantizedTensor* weight) {
  weight->attributes[kVersion] = std::string(NameOf(version));
  weight->attributes[kInterleaved] = std::to_string(static_cast<int>(interleaved));
}

void SpellAwq(AwqVersion version, QuantizedTensor* weight) {
  const bool interleaved = weight->grid.bits == 4;
  MarkAwq(version, interleaved, weight);
  if (version == AwqVersion::kMarlin) return;
  if (weight->zero_point.empty()) {
    weight->zero_point.assign(weight->scale.size(), static_cast<float>(-weight->grid.first));
    weight->grid.first = 0;
  }
  if (version != AwqVersion::kGemvFast) return;
  for (size_t i = 0; i < weight->scale.size(); ++i) {
    const float offset = -(weight->scale[i] * weight->zero_point[i]);
    weight->offset.push_back(RoundTo(DType::kF16, offset));
  }
  weight->zero_point.clear();
}

absl::Status CheckAwqShape(AwqVersion version, bool interleaved, int bits, int64_t group_size,
                           int64_t rows, int64_t cols) {
  RETURN_IF_ERROR(Multiple("columns", cols, group_size, "group_size"));
  const absl::string_view name = NameOf(version);
  switch (version) {
    case AwqVersion::kGemm:
      if (!interleaved) return absl::OkStatus();
      return Multiple("rows", rows, 32 % bits == 0 ? 8 : 32, name);
    case AwqVersion::kGemv:
      RETURN_IF_ERROR(Multiple("columns", cols, 8, name));
      break;
    case AwqVersion::kGemvFast:
      RETURN_IF_ERROR(Multiple("rows", rows, 4, name));
      RETURN_IF_ERROR(Multiple("columns", cols, 64, name));
      break;
    case AwqVersion::kMarlin:
      RETURN_IF_ERROR(Multiple("rows", rows, 64, name));
      return Multiple("columns", cols, 16, name);
  }
  if (GemvZeroWords(1, group_size) > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("found groups of ", group_size, ", expected 32, ",
                                                 "64, or 128 and more (", name, ")"));
}

// Scales alone are a ScaledActivation, which Decode refuses by name.
bool AwqCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has("qweight") || tensors.Has("scales");
}

std::vector<std::string> AwqCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {"qweight", "qzeros", "scales"}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> AwqCodec::MatrixShape(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Stored stored, ReadStored(tensors, config_));
  return Shape{stored.rows, stored.cols};
}

absl::StatusOr<QuantizedTensor> AwqCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Stored stored, ReadStored(tensors, config_));
  if (tensors.Has("weight")) {
    return TensorError(tensors, "weight", "stands beside qweight; expected one of them");
  }
  QuantizedTensor out;
  out.rows = stored.rows;
  out.cols = stored.cols;
  out.grid = UniformGrid(stored.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = stored.group_size};
  out.scale_dtype = DType::kF16;
  switch (stored.version) {
    case AwqVersion::kGemm:
      RETURN_IF_ERROR(DecodeGemm(tensors, stored, &out));
      break;
    case AwqVersion::kGemv:
      RETURN_IF_ERROR(DecodeGemv(tensors, stored, &out));
      break;
    case AwqVersion::kGemvFast:
      RETURN_IF_ERROR(DecodeGemvFast(tensors, stored, &out));
      break;
    case AwqVersion::kMarlin:
      RETURN_IF_ERROR(DecodeMarlin(tensors, stored, &out));
      break;
  }
  // Also of bf16 scales: GPTQModel computes in float16 unless the model is loaded in bf16.
  out.dequantized_dtype = DType::kF16;
  MarkAwq(stored.version, stored.interleaved, &out);
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> AwqCodec::Encode(const QuantizedTensor& weight) const {
  ASSIGN_OR_RETURN(const std::string name, RequireAttribute(weight, kVersion, quant_method()));
  const std::optional<AwqVersion> version = AwqVersionNamed(name);
  if (!version) return absl::InvalidArgumentError(absl::StrCat("no AWQ layout ", name));
  Stored stored;
  stored.version = *version;
  stored.interleaved = Attribute(weight, kInterleaved) == "1";
  stored.bits = weight.grid.bits;
  stored.rows = weight.rows;
  stored.cols = weight.cols;
  stored.group_size = weight.block.cols > 0 ? weight.block.cols : weight.cols;
  switch (*version) {
    case AwqVersion::kGemm:
      return EncodeGemm(weight, stored);
    case AwqVersion::kGemv:
      return EncodeGemv(weight, stored);
    case AwqVersion::kGemvFast:
      return EncodeGemvFast(weight, stored);
    case AwqVersion::kMarlin:
      return EncodeMarlin(weight, stored);
  }
  return absl::InternalError("unreachable");
}

}  // namespace quantd

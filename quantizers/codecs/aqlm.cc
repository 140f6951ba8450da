#include "quantizers/codecs/aqlm.h"

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kMark[] = "aqlm";
constexpr char kCodes[] = "codes";
constexpr char kCodebooks[] = "codebooks";
constexpr char kScales[] = "scales";

DType CodeDType(int bits) { return bits <= 8 ? DType::kI8 : DType::kI16; }

// Codes of `bits` bits out of their two's complement; false when one has more.
template <class Stored, class Code>
bool FromSigned(const std::vector<Stored>& stored, int bits, std::vector<Code>* codes) {
  const int half = 1 << (bits - 1);
  codes->reserve(stored.size());
  for (const Stored value : stored) {
    if (value < -half || value >= half) return false;
    codes->push_back(static_cast<Code>(value & (2 * half - 1)));
  }
  return true;
}

template <class Stored, class Code>
Tensor ToSigned(const std::vector<Code>& codes, int bits, const Shape& shape) {
  std::vector<Stored> stored(codes.size());
  for (size_t i = 0; i < codes.size(); ++i) {
    const int code = codes[i];
    stored[i] = static_cast<Stored>(code >= 1 << (bits - 1) ? code - (1 << bits) : code);
  }
  return TensorOf<Stored>(CodeDType(bits), shape, stored);
}

}  // namespace

QuantizedTensor EmptyAqlm(const AqlmConfig& config, int64_t rows, int64_t cols, DType dtype) {
  QuantizedTensor out;
  out.rows = rows;
  out.cols = cols;
  out.grid.kind = Grid::Kind::kCodebook;
  out.grid.bits = config.nbits_per_codebook;
  out.grid.codebooks = config.num_codebooks;
  out.grid.vector_length = config.in_group_size;
  out.grid.vector_rows = config.out_group_size;
  out.block = {.rows = config.out_group_size, .cols = 0};
  out.scale_dtype = out.dequantized_dtype = dtype;
  out.rounds_each_step = true;
  out.attributes.emplace(kMark, "1");
  return out;
}

bool AqlmCodec::IsQuantized(const ModuleTensors& tensors) const {
  return tensors.Has(kCodes) || tensors.Has(kCodebooks);
}

std::vector<std::string> AqlmCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names;
  for (const char* name : {kCodes, kCodebooks, kScales}) {
    if (tensors.Has(name)) names.push_back(name);
  }
  return names;
}

absl::StatusOr<Shape> AqlmCodec::MatrixShape(const ModuleTensors& tensors) const {
  if (!tensors.Has(kCodes)) return TensorError(tensors, kCodes, "the tensor is missing");
  ASSIGN_OR_RETURN(const TensorView codes, tensors.Describe(kCodes));
  constexpr int64_t kMax = int64_t{1} << 40;
  if (codes.shape.size() != 3 || codes.shape[2] != config_.num_codebooks || codes.shape[0] > kMax ||
      codes.shape[1] > kMax) {
    return TensorError(tensors, kCodes,
                       absl::StrCat("found the shape ", ToString(codes.shape), ", expected [out / ",
                                    config_.out_group_size, ", in / ", config_.in_group_size, ", ",
                                    config_.num_codebooks, "]"));
  }
  const Shape shape = {codes.shape[0] * config_.out_group_size,
                       codes.shape[1] * config_.in_group_size};
  RETURN_IF_ERROR(CheckMatrixShape(tensors, kCodes, shape));
  return shape;
}

absl::Status AqlmCodec::DecodeCodes(const ModuleTensors& tensors, QuantizedTensor* out) const {
  const int bits = config_.nbits_per_codebook;
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, kCodes, {CodeDType(bits)}, std::nullopt));
  const bool fits = bits <= 8 ? FromSigned(Elements<int8_t>(stored), bits, &out->codes)
                              : FromSigned(Elements<int16_t>(stored), bits, &out->wide_codes);
  if (fits) return absl::OkStatus();
  const int64_t bad = static_cast<int64_t>(bits <= 8 ? out->codes.size() : out->wide_codes.size());
  return TensorError(tensors, kCodes,
                     absl::StrCat("element ", bad, " is no code of ", bits, " bits, which are ",
                                  -(1 << (bits - 1)), " to ", (1 << (bits - 1)) - 1));
}

absl::StatusOr<QuantizedTensor> AqlmCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  if (tensors.Has("weight")) {
    return TensorError(tensors, "weight", "stored beside codes; only one of them may be there");
  }
  QuantizedTensor out = EmptyAqlm(config_, shape[0], shape[1], DType::kF16);
  ASSIGN_OR_RETURN(
      out.grid.table,
      ReadFiniteFloats(tensors, kCodebooks, {DType::kF16, DType::kBF16, DType::kF32},
                       Shape{config_.num_codebooks, int64_t{1} << config_.nbits_per_codebook,
                             config_.out_group_size, config_.in_group_size}));
  ASSIGN_OR_RETURN(const TensorView codebooks, tensors.Describe(kCodebooks));
  out.scale_dtype = out.dequantized_dtype = codebooks.dtype;
  ASSIGN_OR_RETURN(out.scale, ReadFiniteFloats(tensors, kScales, {codebooks.dtype},
                                               Shape{shape[0] / config_.out_group_size, 1, 1, 1}));
  RETURN_IF_ERROR(DecodeCodes(tensors, &out));
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> AqlmCodec::Encode(const QuantizedTensor& weight) const {
  RETURN_IF_ERROR(RequireAttribute(weight, kMark, quant_method()).status());
  const Grid& grid = weight.grid;
  const int64_t rows = weight.rows / grid.vector_rows;
  const Shape codes = {rows, weight.cols / grid.vector_length, grid.codebooks};
  std::vector<NamedTensor> out;
  out.push_back({kCodes, grid.bits <= 8 ? ToSigned<int8_t>(weight.codes, grid.bits, codes)
                                        : ToSigned<int16_t>(weight.wide_codes, grid.bits, codes)});
  out.push_back({kCodebooks, FloatTensor(weight.scale_dtype,
                                         {grid.codebooks, int64_t{1} << grid.bits, grid.vector_rows,
                                          grid.vector_length},
                                         grid.table)});
  out.push_back({kScales, FloatTensor(weight.scale_dtype, {rows, 1, 1, 1}, weight.scale)});
  return out;
}

}  // namespace quantd

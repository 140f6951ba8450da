#include "quantizers/codecs/sinq.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr HqqPacking kSixBits = {"6bit_32", 6, 5, DType::kI32};
constexpr HqqPacking kFiveBits = {"5bit_32", 5, 6, DType::kI32};

constexpr char kCodes[] = "W_q";
constexpr char kColumns[] = "meta.scale2";
// Codes of 8 bits with steps and offsets.
constexpr char kScale[] = "meta.scale";
constexpr char kZero[] = "meta.zero";

std::string Part(absl::string_view of, absl::string_view part) {
  return absl::StrCat(of, ".", part);
}

// Blocks of a matrix, from the table of its scales.
absl::StatusOr<int64_t> BlocksOf(const ModuleTensors& tensors) {
  const std::string name = Part(kScale, "x");
  ASSIGN_OR_RETURN(const Shape shape, ReadMatrixShape(tensors, name));
  if (shape[0] == kSinqScaleRows) return shape[0] * shape[1];
  return TensorError(
      tensors, name,
      absl::StrCat("found ", shape[0], " rows, expected ", kSinqScaleRows, " (sinq_quantAux)"));
}

// Reads codes of the shape with steps and offsets of [1, columns].
absl::Status ReadBytes(const ModuleTensors& tensors, const char* of, const Shape& shape,
                       std::vector<uint8_t>* codes, std::vector<float>* steps,
                       std::vector<float>* offsets) {
  ASSIGN_OR_RETURN(const Tensor stored, ReadTensor(tensors, Part(of, "x"), {DType::kU8}, shape));
  *codes = Elements<uint8_t>(stored);
  const Shape columns = {1, shape[1]};
  ASSIGN_OR_RETURN(*steps, ReadFiniteFloats(tensors, Part(of, "s"), {DType::kF16}, columns));
  ASSIGN_OR_RETURN(*offsets, ReadFiniteFloats(tensors, Part(of, "m"), {DType::kF16}, columns));
  return absl::OkStatus();
}

void WriteBytes(const char* of, const Shape& shape, const std::vector<uint8_t>& codes,
                const std::vector<float>& steps, const std::vector<float>& offsets,
                std::vector<NamedTensor>* out) {
  out->push_back({Part(of, "x"), TensorOf<uint8_t>(DType::kU8, shape, codes)});
  out->push_back({Part(of, "s"), FloatTensor(DType::kF16, {1, shape[1]}, steps)});
  out->push_back({Part(of, "m"), FloatTensor(DType::kF16, {1, shape[1]}, offsets)});
}

}  // namespace

const HqqPacking* SinqPackingOf(int bits) {
  if (bits == 6) return &kSixBits;
  if (bits == 5) return &kFiveBits;
  const HqqBits* shared = FindHqqBits(static_cast<float>(bits));
  return shared == nullptr ? nullptr : &shared->packing;
}

std::vector<std::string> SinqCodec::WeightTensors(const ModuleTensors& tensors) const {
  std::vector<std::string> names = {kCodes, kColumns};
  for (const char* of : {kScale, kZero}) {
    for (const char* part : {"x", "s", "m"}) names.push_back(Part(of, part));
  }
  std::erase_if(names, [&](const std::string& name) { return !tensors.Has(name); });
  return names;
}

absl::StatusOr<Shape> SinqCodec::MatrixShape(const ModuleTensors& tensors) const {
  const HqqPacking& packing = *SinqPackingOf(config_.spec.bits);
  ASSIGN_OR_RETURN(const Shape words, ReadMatrixShape(tensors, kCodes));
  ASSIGN_OR_RETURN(const Shape columns, ReadMatrixShape(tensors, kColumns));
  ASSIGN_OR_RETURN(const int64_t blocks, BlocksOf(tensors));
  const int64_t group = words[1], cols = columns[1];
  const bool fits = columns[0] == 1 && group == config_.spec.Tile(cols) &&
                    words[0] == HqqWordRows(packing, blocks) && blocks * group % cols == 0;
  if (!fits) {
    return TensorError(tensors, kCodes,
                       absl::StrCat("found the shape ", ToString(words), ", expected ",
                                    HqqWordRows(packing, blocks), " rows of groups that divide ",
                                    cols, " columns, for ", blocks, " scales, ", config_.spec.bits,
                                    " bits and group_size ", config_.spec.group_size));
  }
  const Shape shape = {blocks * group / cols, cols};
  RETURN_IF_ERROR(CheckMatrixShape(tensors, kCodes, shape));
  return shape;
}

absl::StatusOr<QuantizedTensor> SinqCodec::Decode(const ModuleTensors& tensors) const {
  ASSIGN_OR_RETURN(const Shape shape, MatrixShape(tensors));
  const HqqPacking& packing = *SinqPackingOf(config_.spec.bits);
  QuantizedTensor out;
  out.rows = shape[0];
  out.cols = shape[1];
  out.grid = UniformGrid(config_.spec.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = config_.spec.Tile(out.cols)};
  out.scale_dtype = DType::kF16;
  out.dequantized_dtype = dtype_;
  out.rounds_each_step = dtype_ == DType::kF16;
  const int64_t blocks = out.block_count();
  ASSIGN_OR_RETURN(const Tensor words,
                   ReadTensor(tensors, kCodes, {packing.word},
                              Shape{HqqWordRows(packing, blocks), out.block.cols}));
  if (!UnpackHqq(packing, words.bytes, blocks, out.block.cols, &out.codes)) {
    return TensorError(tensors, kCodes, "bits that belong to no code are set");
  }
  NestedScales& nested = out.nested.emplace();
  RETURN_IF_ERROR(ReadBytes(tensors, kScale, {kSinqScaleRows, blocks / kSinqScaleRows},
                            &nested.scale_codes, &nested.super_scale, &nested.super_offset));
  RETURN_IF_ERROR(ReadBytes(tensors, kZero, {blocks, 1}, &nested.offset_codes, &nested.scale_zero,
                            &nested.offset_zero));
  FillSinqScales(&out);
  ASSIGN_OR_RETURN(out.column_scale,
                   ReadFiniteFloats(tensors, kColumns, {DType::kF16}, Shape{1, out.cols}));
  return out;
}

absl::StatusOr<std::vector<NamedTensor>> SinqCodec::Encode(const QuantizedTensor& weight) const {
  const auto blocks = static_cast<size_t>(weight.block_count());
  const bool fits = weight.grid.kind == Grid::Kind::kUniform && weight.grid.first == 0 &&
                    weight.grid.bits == config_.spec.bits && weight.nested &&
                    weight.block.cols == config_.spec.Tile(weight.cols) &&
                    weight.nested->scale_codes.size() == blocks &&
                    weight.nested->offset_codes.size() == blocks &&
                    weight.nested->super_scale.size() * kSinqScaleRows == blocks &&
                    weight.nested->offset_zero.size() == 1 &&
                    weight.column_scale.size() == static_cast<size_t>(weight.cols);
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", weight.rows, "x", weight.cols,
                     " cannot be written as sinq: expected unsigned codes of ", config_.spec.bits,
                     " bits with scales and zero points in 8 bits, and a scale for every column"));
  }
  const NestedScales& nested = *weight.nested;
  const int64_t count = weight.block_count();
  std::vector<NamedTensor> out;
  out.push_back(
      {kCodes, PackHqq(*SinqPackingOf(config_.spec.bits), weight.codes, count, weight.block.cols)});
  WriteBytes(kScale, {kSinqScaleRows, count / kSinqScaleRows}, nested.scale_codes,
             nested.super_scale, nested.super_offset, &out);
  out.push_back({kColumns, FloatTensor(DType::kF16, {1, weight.cols}, weight.column_scale)});
  WriteBytes(kZero, {count, 1}, nested.offset_codes, nested.scale_zero, nested.offset_zero, &out);
  return out;
}

}  // namespace quantd

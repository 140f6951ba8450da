#include "quantizers/codecs/compressed_tensors_pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/parallel.h"
#include "quantizers/codecs/bit_packing.h"
#include "quantizers/codecs/stored_tensors.h"

namespace quantd {
namespace {

constexpr char kPacking[] = "ct.packing";

// Whether compressed-tensors `version` packs as releases before 0.15 did.
bool PacksWholeCodes(const std::string& version) {
  const std::vector<std::string> parts = absl::StrSplit(version, '.');
  int major = 0;
  int minor = 0;
  return parts.size() >= 2 && absl::SimpleAtoi(parts[0], &major) &&
         absl::SimpleAtoi(parts[1], &minor) && major == 0 && minor < 15;
}

WordPacking PackingOf(const QuantizedTensor& weight) {
  return Attribute(weight, kPacking) == "whole codes" ? WordPacking::kWholeCodes
                                                      : WordPacking::kDense;
}

Tensor WordTensor(Shape shape, const std::vector<uint32_t>& words) {
  return TensorOf<uint32_t>(DType::kI32, std::move(shape), words);
}

}  // namespace

absl::StatusOr<Shape> ReadPackedShape(const ModuleTensors& tensors) {
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, "weight_shape", {DType::kI64, DType::kI32}, Shape{2}));
  Shape shape;
  if (stored.dtype == DType::kI64) {
    for (const int64_t size : Elements<int64_t>(stored)) shape.push_back(size);
  } else {
    for (const int32_t size : Elements<int32_t>(stored)) shape.push_back(size);
  }
  RETURN_IF_ERROR(CheckMatrixShape(tensors, "weight_shape", shape));
  return shape;
}

absl::Status DecodePackedWords(const ModuleTensors& tensors, const CtArgs& args,
                               const std::string& version, QuantizedTensor* out) {
  ASSIGN_OR_RETURN(const Shape stored, ReadMatrixShape(tensors, "weight_packed"));
  const int64_t dense = WordsPerRow(out->cols, args.num_bits, WordPacking::kDense);
  const int64_t whole = WordsPerRow(out->cols, args.num_bits, WordPacking::kWholeCodes);
  WordPacking packing = WordPacking::kDense;
  if (dense == whole ? PacksWholeCodes(version) : stored[1] == whole) {
    packing = WordPacking::kWholeCodes;
  }
  const int64_t width = packing == WordPacking::kDense ? dense : whole;
  ASSIGN_OR_RETURN(const Tensor packed,
                   ReadTensor(tensors, "weight_packed", {DType::kI32}, Shape{out->rows, width}));
  out->codes =
      UnpackWords(Elements<uint32_t>(packed), out->rows, out->cols, args.num_bits, packing);
  if (packing == WordPacking::kWholeCodes) out->attributes[kPacking] = "whole codes";
  ASSIGN_OR_RETURN(const TensorView shape, tensors.Describe("weight_shape"));
  if (shape.dtype == DType::kI32) out->attributes["ct.shape_dtype"] = "I32";
  return absl::OkStatus();
}

void EncodePackedWords(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  const WordPacking packing = PackingOf(weight);
  const int64_t width = WordsPerRow(weight.cols, weight.grid.bits, packing);
  out->push_back({"weight_packed",
                  WordTensor({weight.rows, width}, PackWords(weight.codes, weight.rows, weight.cols,
                                                             weight.grid.bits, packing))});
  const bool narrow = Attribute(weight, "ct.shape_dtype") == "I32";
  const int64_t wide_shape[2] = {weight.rows, weight.cols};
  const int32_t narrow_shape[2] = {static_cast<int32_t>(weight.rows),
                                   static_cast<int32_t>(weight.cols)};
  out->push_back({"weight_shape", narrow ? TensorOf<int32_t>(DType::kI32, {2}, narrow_shape)
                                         : TensorOf<int64_t>(DType::kI64, {2}, wide_shape)});
}

absl::Status DecodePackedZeroPoints(const ModuleTensors& tensors, QuantizedTensor* out) {
  const WordPacking packing = PackingOf(*out);
  const int bits = out->grid.bits;
  const int64_t groups = out->block_columns();
  const int64_t height = WordsPerRow(out->rows, bits, packing);
  ASSIGN_OR_RETURN(const Tensor packed,
                   ReadTensor(tensors, "weight_zero_point", {DType::kI32}, Shape{height, groups}));
  const auto columns = Transposed(Elements<uint32_t>(packed), height, groups);
  const auto codes = UnpackWords(columns, groups, out->rows, bits, packing);
  for (const uint8_t code : Transposed(codes, groups, out->rows)) {
    out->zero_point.push_back(static_cast<float>(code + out->grid.first));
  }
  return absl::OkStatus();
}

void EncodePackedZeroPoints(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  const WordPacking packing = PackingOf(weight);
  const int64_t groups = weight.block_columns();
  const int64_t height = WordsPerRow(weight.rows, weight.grid.bits, packing);
  std::vector<uint8_t> codes;
  codes.reserve(weight.zero_point.size());
  for (const float zero : weight.zero_point) {
    codes.push_back(static_cast<uint8_t>(static_cast<int>(zero) - weight.grid.first));
  }
  const auto columns = PackWords(Transposed(codes, weight.rows, groups), groups, weight.rows,
                                 weight.grid.bits, packing);
  out->push_back(
      {"weight_zero_point", WordTensor({height, groups}, Transposed(columns, groups, height))});
}

absl::Status DecodeColumnOrder(const ModuleTensors& tensors, QuantizedTensor* out) {
  if (!tensors.Has("weight_g_idx")) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Tensor stored,
                   ReadTensor(tensors, "weight_g_idx", {DType::kI32}, Shape{out->cols}));
  const std::vector<int32_t> group = Elements<int32_t>(stored);
  const int64_t size = out->block.cols > 0 ? out->block.cols : out->cols;
  // All -1: never initialized, upstream ignores it. In order: says nothing new.
  bool trivial = std::all_of(group.begin(), group.end(), [](int32_t g) { return g == -1; });
  bool in_order = true;
  for (int64_t col = 0; col < out->cols; ++col) in_order = in_order && group[col] == col / size;
  if (trivial || in_order) {
    KeepTensor("weight_g_idx", stored, &out->attributes);
    return absl::OkStatus();
  }
  std::vector<int64_t> members(static_cast<size_t>(out->cols / size));
  for (int64_t col = 0; col < out->cols; ++col) {
    const int32_t g = group[col];
    if (g < 0 || g >= static_cast<int64_t>(members.size()) || ++members[g] > size) {
      return TensorError(tensors, "weight_g_idx",
                         absl::StrCat("element ", col, " is ", g, ", expected ", members.size(),
                                      " groups of ", size, " columns each"));
    }
  }
  std::vector<int32_t> order(group.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return group[a] < group[b]; });
  std::vector<uint8_t> codes(out->codes.size());
  ParallelFor(out->rows, [&](int64_t row) {
    const int64_t base = row * out->cols;
    for (int64_t col = 0; col < out->cols; ++col) codes[base + col] = out->codes[base + order[col]];
  });
  out->codes = std::move(codes);
  out->input.permutation = std::move(order);
  return absl::OkStatus();
}

QuantizedTensor InStoredColumnOrder(const QuantizedTensor& weight) {
  QuantizedTensor out = weight;
  ParallelFor(weight.rows, [&](int64_t row) {
    const int64_t base = row * weight.cols;
    for (int64_t col = 0; col < weight.cols; ++col) {
      out.codes[base + weight.input.permutation[col]] = weight.codes[base + col];
    }
  });
  return out;
}

void EncodeColumnOrder(const QuantizedTensor& weight, std::vector<NamedTensor>* out) {
  std::vector<int32_t> group(weight.input.permutation.size());
  for (size_t col = 0; col < group.size(); ++col) {
    group[weight.input.permutation[col]] = static_cast<int32_t>(col / weight.block.cols);
  }
  out->push_back({"weight_g_idx", TensorOf<int32_t>(DType::kI32, {weight.cols}, group)});
}

std::vector<std::byte> PackSixBits(const std::vector<uint8_t>& codes) {
  std::vector<std::byte> bytes(codes.size() / 4 * 3);
  for (size_t i = 0, j = 0; i + 3 < codes.size(); i += 4, j += 3) {
    const uint32_t word = codes[i] | (codes[i + 1] << 6) | (codes[i + 2] << 12) |
                          (static_cast<uint32_t>(codes[i + 3]) << 18);
    for (int k = 0; k < 3; ++k) bytes[j + k] = static_cast<std::byte>((word >> (8 * k)) & 255);
  }
  return bytes;
}

std::vector<uint8_t> UnpackSixBits(const std::vector<std::byte>& bytes) {
  std::vector<uint8_t> codes(bytes.size() / 3 * 4);
  for (size_t i = 0, j = 0; j + 2 < bytes.size(); i += 4, j += 3) {
    const uint32_t word = static_cast<uint32_t>(bytes[j]) |
                          (static_cast<uint32_t>(bytes[j + 1]) << 8) |
                          (static_cast<uint32_t>(bytes[j + 2]) << 16);
    for (int k = 0; k < 4; ++k) codes[i + k] = static_cast<uint8_t>((word >> (6 * k)) & 63);
  }
  return codes;
}

}  // namespace quantd

#include "quantizers/codecs/gguf/blocks.h"

#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/codecs/gguf/block_tensor.h"

namespace quantd {

using gguf::BlockFormat;
using gguf::ConstParts;
using gguf::EmptyTensor;
using gguf::FillScales;
using gguf::Parts;
using gguf::PartsAt;
using gguf::RowsInBlocks;

namespace {

constexpr int64_t kBlocksPerTask = 256;

// QuantizedTensor::attributes: the file's own blocks, where theirs is not our spelling.
constexpr char kStoredBlocks[] = "ggml_blocks";

absl::Status Unsupported(GgmlType type) {
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
  return absl::UnimplementedError(
      absl::StrCat("GGUF tensor type ", info != nullptr ? info->name : "unknown", " (",
                   static_cast<uint32_t>(type), ") does not hold model weights that can be read"));
}

absl::Status WrongSize(absl::string_view name, const Shape& shape, uint64_t found,
                       uint64_t expected) {
  return absl::InvalidArgumentError(absl::StrCat("found ", found, " bytes of ", name,
                                                 " blocks for ", ToString(shape), ", expected ",
                                                 expected));
}

absl::Status CheckEncodable(const BlockFormat& format, const QuantizedTensor& weight) {
  const Grid grid = format.grid();
  const bool same_grid = weight.grid.kind == grid.kind && weight.grid.bits == grid.bits &&
                         weight.grid.first == grid.first && weight.grid.table == grid.table;
  const int64_t blocks = format.elements > 0 ? weight.rows * weight.cols / format.elements : 0;
  const size_t scales = static_cast<size_t>(blocks * (format.elements / format.scale_block));
  bool fits = same_grid && !weight.block.flat && weight.block.rows == 1 &&
              weight.block.cols == format.scale_block && weight.cols % format.elements == 0 &&
              weight.codes.size() == static_cast<size_t>(weight.rows * weight.cols) &&
              weight.scale.size() == scales && weight.zero_point.empty() &&
              weight.post_scale == 1 && weight.input.permutation.empty() &&
              weight.outliers.row_begin.empty() && weight.nested.has_value() == format.nested &&
              weight.offset.size() == (format.has_offset ? scales : 0);
  if (fits && format.nested) {
    fits =
        weight.nested->scale_codes.size() == scales &&
        weight.nested->super_scale.size() == static_cast<size_t>(blocks) &&
        weight.nested->offset_codes.size() == (format.has_offset ? scales : 0) &&
        weight.nested->super_offset.size() == static_cast<size_t>(format.has_offset ? blocks : 0);
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "the matrix is not quantized as ", format.name, ": expected ", grid.bits, " bits with ",
      format.scale_block, " elements to a scale; quantize it with that scheme first"));
}

}  // namespace

std::optional<DType> PlainDTypeOf(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return DType::kF32;
    case GgmlType::kF16:
      return DType::kF16;
    case GgmlType::kBF16:
      return DType::kBF16;
    case GgmlType::kF64:
      return DType::kF64;
    default:
      return std::nullopt;
  }
}

absl::StatusOr<Weight> DecodeGgufBlocks(GgmlType type, const Shape& shape,
                                        std::span<const std::byte> blocks) {
  if (const std::optional<DType> dtype = PlainDTypeOf(type)) {
    const uint64_t expected = static_cast<uint64_t>(NumElements(shape)) * SizeOf(*dtype);
    if (blocks.size() != expected) {
      return WrongSize(InfoOf(*dtype).safetensors_name, shape, blocks.size(), expected);
    }
    return TensorOf<std::byte>(*dtype, shape, blocks);
  }
  const BlockFormat* format = gguf::FindBlockFormat(type);
  if (format == nullptr) return Unsupported(type);
  ASSIGN_OR_RETURN(const int64_t rows, RowsInBlocks(*format, shape));
  const int64_t count = rows * (shape.back() / format->elements);
  const uint64_t expected = static_cast<uint64_t>(count) * format->bytes;
  if (blocks.size() != expected) return WrongSize(format->name, shape, blocks.size(), expected);

  QuantizedTensor tensor = EmptyTensor(*format, rows, shape.back());
  const auto* bytes = reinterpret_cast<const uint8_t*>(blocks.data());
  std::atomic<int64_t> bad{-1};
  ParallelFor((count + kBlocksPerTask - 1) / kBlocksPerTask, [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * kBlocksPerTask);
    for (int64_t b = task * kBlocksPerTask; b < end; ++b) {
      NestedScales* nested = tensor.nested ? &*tensor.nested : nullptr;
      const Parts parts = PartsAt<Parts>(*format, tensor, nested, b);
      format->decode(bytes + b * format->bytes, parts);
      if (!gguf::HasFiniteScale(*format, parts)) bad.store(b, std::memory_order_relaxed);
      if (format->nested) FillScales(*format, b, tensor);
    }
  });
  if (bad >= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the scale of a ", format->name, " block in row ",
                     bad / (shape.back() / format->elements), " is NaN or infinite"));
  }
  if (format->many_spellings) {
    ASSIGN_OR_RETURN(const std::vector<std::byte> spelled, EncodeGgufBlocks(type, tensor));
    if (!std::equal(spelled.begin(), spelled.end(), blocks.begin(), blocks.end())) {
      tensor.attributes[kStoredBlocks] =
          std::string(reinterpret_cast<const char*>(blocks.data()), blocks.size());
    }
  }
  return Weight(std::move(tensor));
}

void ReorderStoredBlocks(const std::vector<int64_t>& order, QuantizedTensor& tensor) {
  const auto stored = tensor.attributes.find(kStoredBlocks);
  if (stored == tensor.attributes.end()) return;
  const size_t row_bytes = stored->second.size() / static_cast<size_t>(tensor.rows);
  std::string reordered;
  for (const int64_t row : order) {
    reordered.append(stored->second, static_cast<size_t>(row) * row_bytes, row_bytes);
  }
  stored->second = std::move(reordered);
}

absl::StatusOr<std::vector<std::byte>> EncodeGgufBlocks(GgmlType type,
                                                        const QuantizedTensor& weight) {
  const BlockFormat* format = gguf::FindBlockFormat(type);
  if (format == nullptr) return Unsupported(type);
  RETURN_IF_ERROR(CheckEncodable(*format, weight));
  const int64_t count = weight.rows * weight.cols / format->elements;
  std::vector<std::byte> out(static_cast<size_t>(count) * format->bytes);
  auto* bytes = reinterpret_cast<uint8_t*>(out.data());
  std::atomic<bool> fits{true};
  ParallelFor((count + kBlocksPerTask - 1) / kBlocksPerTask, [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * kBlocksPerTask);
    const NestedScales* nested = weight.nested ? &*weight.nested : nullptr;
    for (int64_t b = task * kBlocksPerTask; b < end; ++b) {
      const ConstParts parts = PartsAt<ConstParts>(*format, weight, nested, b);
      if (!format->encode(parts, bytes + b * format->bytes)) {
        fits.store(false, std::memory_order_relaxed);
      }
    }
  });
  if (!fits) {
    return absl::InvalidArgumentError(
        absl::StrCat("the matrix has codes or scales that ", format->name, " cannot hold"));
  }
  const auto stored = weight.attributes.find(kStoredBlocks);
  if (!format->many_spellings || stored == weight.attributes.end()) return out;
  // Their spelling, as long as it still says the same.
  const std::span<const std::byte> theirs = std::as_bytes(std::span(stored->second));
  if (theirs.size() != out.size()) return out;
  QuantizedTensor read = EmptyTensor(*format, weight.rows, weight.cols);
  for (int64_t b = 0; b < count; ++b) {
    format->decode(reinterpret_cast<const uint8_t*>(theirs.data()) + b * format->bytes,
                   PartsAt<Parts>(*format, read, static_cast<NestedScales*>(nullptr), b));
  }
  if (read.codes == weight.codes && read.scale == weight.scale) {
    out.assign(theirs.begin(), theirs.end());
  }
  return out;
}

}  // namespace quantd

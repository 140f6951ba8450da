#include "kernels/opencl/pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd::opencl {
namespace {

constexpr int64_t kMaxDimension = (int64_t{1} << 31) - 64;
constexpr float kMaxF16 = 65504.0f;
constexpr float kMinNormalF16 = 6.103515625e-5f;  // 2^-14
constexpr float kScaleFactor = 1024.0f;

absl::Status CheckDimensions(int64_t rows, int64_t cols) {
  if (rows <= 0 || cols <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a matrix of ", rows, " x ", cols, " cannot be packed"));
  }
  if (rows > kMaxDimension || cols > kMaxDimension) {
    return absl::UnimplementedError(
        absl::StrCat("a matrix of ", rows, " x ", cols, " exceeds the kernels' 31-bit indexes"));
  }
  return absl::OkStatus();
}

PartImage EmptyImage(int64_t rows, int64_t cols, WeightFormat format) {
  PartImage image;
  image.format = std::move(format);
  image.rows = rows;
  image.cols = cols;
  image.chunks_per_row = (cols + 7) / 8;
  return image;
}

// Allocates the rows' chunks, zero-filled; returns the bytes of a row.
size_t OwnChunks(PartImage& image) {
  const size_t pitch = static_cast<size_t>(image.chunks_per_row) * ChunkBytes(image.format);
  image.owned.resize(pitch * image.rows);
  image.chunks = image.owned;
  return pitch;
}

DType DTypeOf(Storage storage) {
  return storage == Storage::kBF16  ? DType::kBF16
         : storage == Storage::kF16 ? DType::kF16
                                    : DType::kF32;
}

// The narrowest storage that holds every value of the dtype.
Storage StorageOf(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
    case DType::kF8E4M3:
    case DType::kF8E5M2:
    case DType::kF8E8M0:
    case DType::kF8E4M3FNUZ:
      return Storage::kBF16;
    case DType::kF16:
      return Storage::kF16;
    default:
      return Storage::kF32;
  }
}

absl::StatusOr<PartImage> PackDense(const Tensor& tensor) {
  if (tensor.shape.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor of shape ", ToString(tensor.shape), " is not a matrix"));
  }
  const int64_t rows = tensor.shape[0];
  const int64_t cols = NumElements({tensor.shape.begin() + 1, tensor.shape.end()});
  RETURN_IF_ERROR(CheckDimensions(rows, cols));
  const size_t expected = static_cast<size_t>(rows) * cols * SizeOf(tensor.dtype);
  if (tensor.bytes.size() != expected) {
    return absl::InvalidArgumentError(absl::StrCat("a matrix of ", rows, " x ", cols, " has ",
                                                   tensor.bytes.size(), " bytes, expected ",
                                                   expected));
  }
  PartImage image = EmptyImage(rows, cols, {.storage = StorageOf(tensor.dtype)});
  const DType stored = DTypeOf(image.format.storage);
  if (stored == tensor.dtype && cols % 8 == 0) {
    image.chunks = tensor.bytes;
    return image;
  }
  const size_t pitch = OwnChunks(image);
  const TensorView view = tensor.view();
  ParallelFor(rows, [&](int64_t row) {
    std::vector<float> line(cols);
    LoadFloats(view, row * cols, cols, line.data());
    StoreFloats(stored, line.data(), cols, image.owned.data() + row * pitch);
  });
  return image;
}

absl::Status CheckTable(const QuantizedTensor& t) {
  if (t.grid.bits < 1 || t.grid.bits > 16) {
    return absl::InvalidArgumentError(absl::StrCat("codes of ", t.grid.bits, " bits"));
  }
  const size_t needed = static_cast<size_t>(t.grid.table_size());
  if (t.grid.table.size() >= needed) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the grid's table has ", t.grid.table.size(), " values, expected ", needed));
}

// Row `row`, dequantized, with columns in the order of the codes.
std::vector<float> DequantizedRow(const QuantizedTensor& t, int64_t row) {
  std::vector<float> line(t.cols);
  DequantizeRows(t, row, 1, line.data());
  const std::vector<int32_t>& permutation = t.input.permutation;
  if (permutation.empty()) return line;
  std::vector<float> ordered(t.cols);
  for (int64_t c = 0; c < t.cols; ++c) ordered[c] = line[permutation[c]];
  return ordered;
}

bool ExceedsF16(const QuantizedTensor& t) {
  std::atomic<bool> exceeds = false;
  ParallelFor(t.rows, [&](int64_t row) {
    const std::vector<float> line = DequantizedRow(t, row);
    for (const float value : line) {
      if (!(std::fabs(value) <= kMaxF16)) exceeds = true;
    }
  });
  return exceeds;
}

Storage DenseStorage(const QuantizedTensor& t, Compute compute) {
  const Storage exact = StorageOf(t.dequantized_dtype);
  if (t.outliers.row_begin.empty() && exact != Storage::kF32) return exact;
  if (compute == Compute::kExact || ExceedsF16(t)) return Storage::kF32;
  return Storage::kF16;
}

PartImage PackDequantized(const QuantizedTensor& t, Compute compute) {
  PartImage image = EmptyImage(t.rows, t.cols, {.storage = DenseStorage(t, compute)});
  const DType stored = DTypeOf(image.format.storage);
  const size_t pitch = OwnChunks(image);
  ParallelFor(t.rows, [&](int64_t row) {
    const std::vector<float> line = DequantizedRow(t, row);
    StoreFloats(stored, line.data(), t.cols, image.owned.data() + row * pitch);
  });
  return image;
}

// Blocks as tiles of tile_rows x group columns (0: whole rows); false when they are not tiles.
bool TileBlocks(const QuantizedTensor& t, WeightFormat& format) {
  int64_t cols = t.block.cols > 0 ? t.block.cols : t.cols;
  format.tile_rows = t.block.rows > 0 ? t.block.rows : t.rows;
  if (t.block.strided) return false;
  if (t.block.flat) {
    if (t.cols % cols != 0 && cols % t.cols != 0) return false;
    format.tile_rows = std::max<int64_t>(cols / t.cols, 1);
  }
  if (format.tile_rows > kMaxDimension) return false;
  format.group = cols >= t.cols ? 0 : static_cast<int>(cols);
  return true;
}

bool IsBf16(float value) { return RoundTo(DType::kBF16, value) == value; }
bool IsNormalF16(float value) {
  return RoundTo(DType::kF16, value) == value && std::fabs(value) >= kMinNormalF16 &&
         std::fabs(value) <= kMaxF16;
}

// Subnormal float16 scales are frequent. Times 2^10 they are normal, which is quick to decode, and
// scales up to 63 still fit.
void PackScales(const QuantizedTensor& t, ScaleWidth width, PartImage& image) {
  std::vector<float> scale = t.scale;
  for (float& value : scale) value *= kScaleFactor;
  WeightFormat& format = image.format;
  const bool narrow = width == ScaleWidth::kNarrow;
  if (narrow && std::all_of(scale.begin(), scale.end(), IsNormalF16)) {
    format.scale_storage = Storage::kF16;
    format.post_scale /= kScaleFactor;
  } else {
    const bool bf16 = narrow && std::all_of(t.scale.begin(), t.scale.end(), IsBf16);
    format.scale_storage = bf16 ? Storage::kBF16 : Storage::kF32;
    scale = t.scale;
  }
  const DType dtype = DTypeOf(format.scale_storage);
  image.scales.resize(scale.size() * SizeOf(dtype));
  StoreFloats(dtype, scale.data(), static_cast<int64_t>(scale.size()), image.scales.data());
}

// w = (code - zero) * s, or code * s + minimum when there are offsets or fractional zeros.
void PackZeros(const QuantizedTensor& t, PartImage& image) {
  WeightFormat& format = image.format;
  const float first = t.grid.kind == Grid::Kind::kUniform ? static_cast<float>(t.grid.first) : 0;
  const auto zero = [&](size_t b) { return (t.zero_point.empty() ? 0 : t.zero_point[b]) - first; };
  const size_t blocks = t.scale.size();
  bool constant = t.offset.empty();
  bool bytes = t.offset.empty();
  for (size_t b = 0; b < blocks; ++b) {
    constant = constant && zero(b) == zero(0);
    bytes = bytes && zero(b) >= 0 && zero(b) <= 255 && zero(b) == std::floor(zero(b));
  }
  if (constant) {
    format.zero_storage = ZeroStorage::kConstant;
    format.center = zero(0);
    return;
  }
  if (bytes) {
    format.zero_storage = ZeroStorage::kByte;
    image.zeros.resize(blocks);
    for (size_t b = 0; b < blocks; ++b) {
      image.zeros[b] = static_cast<std::byte>(static_cast<uint8_t>(zero(b)));
    }
    return;
  }
  format.zero_storage = ZeroStorage::kMinimum;
  std::vector<float> minimum(blocks);
  for (size_t b = 0; b < blocks; ++b) {
    minimum[b] = (t.offset.empty() ? 0 : t.offset[b]) - zero(b) * (t.scale[b] * t.post_scale);
  }
  image.zeros.resize(blocks * sizeof(float));
  std::memcpy(image.zeros.data(), minimum.data(), image.zeros.size());
}

void PackCodes(const QuantizedTensor& t, PartImage& image) {
  const size_t pitch = OwnChunks(image);
  const int bits = image.format.code_bits;
  const int per_byte = 8 / bits;
  ParallelFor(t.rows, [&](int64_t row) {
    const uint8_t* codes = t.codes.data() + row * t.cols;
    auto* line = reinterpret_cast<uint8_t*>(image.owned.data() + row * pitch);
    for (int64_t col = 0; col < t.cols; ++col) {
      line[col / per_byte] |= static_cast<uint8_t>(codes[col] << (col % per_byte * bits));
    }
  });
}

// nullopt when the weight has no packed form, or one that is no smaller than dense.
std::optional<PartImage> PackQuantized(const QuantizedTensor& t, ScaleWidth scale_width) {
  if (t.grid.kind == Grid::Kind::kCodebook || t.grid.bits > 8 || t.codes.empty() ||
      !t.outliers.row_begin.empty() || !t.column_scale.empty() || !t.column_offset.empty()) {
    return std::nullopt;
  }
  WeightFormat format = {.storage = Storage::kCodes};
  format.code_bits = t.grid.bits <= 2 ? 2 : t.grid.bits <= 4 ? 4 : 8;
  format.post_scale = t.post_scale;
  if (t.grid.kind == Grid::Kind::kTable) {
    format.table = t.grid.table;
    format.table.resize(size_t{1} << format.code_bits);
  }
  if (!TileBlocks(t, format)) return std::nullopt;
  PartImage image = EmptyImage(t.rows, t.cols, std::move(format));
  image.blocks_per_row =
      image.format.group == 0 ? 1 : (t.cols + image.format.group - 1) / image.format.group;
  PackScales(t, scale_width, image);
  PackZeros(t, image);
  const size_t coded = image.rows * image.chunks_per_row * ChunkBytes(image.format) +
                       image.scales.size() + image.zeros.size();
  if (coded >= static_cast<size_t>(2 * 8) * image.rows * image.chunks_per_row) return std::nullopt;
  PackCodes(t, image);
  return image;
}

}  // namespace

absl::StatusOr<PartImage> PackPart(const Weight& weight, Compute compute, ScaleWidth scale_width) {
  if (const auto* tensor = std::get_if<Tensor>(&weight)) return PackDense(*tensor);
  const auto& quantized = std::get<QuantizedTensor>(weight);
  RETURN_IF_ERROR(CheckDimensions(quantized.rows, quantized.cols));
  RETURN_IF_ERROR(Validate(quantized));
  RETURN_IF_ERROR(CheckTable(quantized));
  if (compute == Compute::kFast) {
    if (std::optional<PartImage> image = PackQuantized(quantized, scale_width))
      return *std::move(image);
  }
  return PackDequantized(quantized, compute);
}

}  // namespace quantd::opencl

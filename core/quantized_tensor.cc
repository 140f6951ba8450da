#include "core/quantized_tensor.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/hadamard.h"
#include "core/parallel.h"

namespace quantd {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t TileRows(const QuantizedTensor& t) { return t.block.rows > 0 ? t.block.rows : t.rows; }
int64_t TileCols(const QuantizedTensor& t) { return t.block.cols > 0 ? t.block.cols : t.cols; }

// Value of the code at column `col` of row `row`, before scaling.
float GridValue(const QuantizedTensor& t, int64_t row, int64_t col) {
  const Grid& grid = t.grid;
  if (grid.kind == Grid::Kind::kCodebook) {
    const int64_t vectors = t.cols / grid.vector_length;
    const int64_t first = (row * vectors + col / grid.vector_length) * grid.codebooks;
    const int64_t entries = int64_t{1} << grid.bits;
    float sum = 0;
    for (int k = 0; k < grid.codebooks; ++k) {
      const int64_t code = t.wide_codes.empty() ? t.codes[first + k] : t.wide_codes[first + k];
      sum += grid.table[(k * entries + code) * grid.vector_length + col % grid.vector_length];
    }
    return sum;
  }
  const uint8_t code = t.codes[row * t.cols + col];
  return grid.kind == Grid::Kind::kTable ? grid.table[code]
                                         : static_cast<float>(static_cast<int>(code) + grid.first);
}

// First column after `col` that lies in another block (or after the row).
int64_t BlockEnd(const QuantizedTensor& t, int64_t row, int64_t col) {
  if (t.block.strided) return t.block.cols == 1 ? t.cols : col + 1;
  const int64_t width = TileCols(t);
  const int64_t position = t.block.flat ? row * t.cols + col : col;
  return std::min(t.cols, col + width - position % width);
}

// Columns [begin, end) of a row whose every operation rounds to the output's dtype. Runs may be as
// short as one column (strided blocks).
void DequantizeInSteps(const QuantizedTensor& t, int64_t row, int64_t begin, int64_t end,
                       float* out) {
  const int64_t block = t.block_of(row, begin);
  const DType dtype = t.dequantized_dtype;
  const float zero_point = t.zero_point.empty() ? 0.0f : t.zero_point[block];
  for (int64_t c = begin; c < end; ++c) {
    const float difference = RoundTo(dtype, GridValue(t, row, c) - zero_point);
    out[c] = RoundTo(dtype, difference * t.scale[block] * t.post_scale);
    if (!t.offset.empty()) out[c] = RoundTo(dtype, out[c] + t.offset[block]);
  }
}

// Columns [begin, end) of a row, which share a block, before rounding to the output's dtype.
void DequantizeRun(const QuantizedTensor& t, int64_t row, int64_t begin, int64_t end, float* out) {
  if (t.rounds_each_step) return DequantizeInSteps(t, row, begin, end, out);
  const int64_t block = t.block_of(row, begin);
  const float zero_point = t.zero_point.empty() ? 0.0f : t.zero_point[block];
  const float scale = t.scale[block];
  const float post_scale = t.post_scale;
  // Adding -0 changes nothing, not even the sign of a zero.
  const float offset = t.offset.empty() ? -0.0f : t.offset[block];
  if (t.grid.kind == Grid::Kind::kCodebook) {
    for (int64_t c = begin; c < end; ++c) {
      out[c] = (GridValue(t, row, c) - zero_point) * scale * post_scale + offset;
    }
    return;
  }
  const uint8_t* codes = t.codes.data() + row * t.cols;
  if (t.grid.kind == Grid::Kind::kTable) {
    const float* table = t.grid.table.data();
    for (int64_t c = begin; c < end; ++c) {
      out[c] = (table[codes[c]] - zero_point) * scale * post_scale + offset;
    }
    return;
  }
  const int first = t.grid.first;
  for (int64_t c = begin; c < end; ++c) {
    const float value = static_cast<float>(static_cast<int>(codes[c]) + first);
    out[c] = (value - zero_point) * scale * post_scale + offset;
  }
}

template <class T>
absl::Status CheckCodes(const std::vector<T>& codes, int64_t expected, int bits) {
  if (static_cast<int64_t>(codes.size()) != expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("found ", codes.size(), " codes, expected ", expected));
  }
  if (bits >= static_cast<int>(8 * sizeof(T))) return absl::OkStatus();
  for (size_t i = 0; i < codes.size(); ++i) {
    if (codes[i] >> bits) {
      return absl::InvalidArgumentError(absl::StrCat(
          "code ", static_cast<int>(codes[i]), " at element ", i, " does not fit ", bits, " bits"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPerBlock(absl::string_view what, size_t found, int64_t expected, bool optional) {
  if (optional && found == 0) return absl::OkStatus();
  if (static_cast<int64_t>(found) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("found ", found, " values of ", what, ", expected ", expected));
}

absl::Status CheckPermutation(const QuantizedTensor& t) {
  const std::vector<int32_t>& permutation = t.input.permutation;
  if (permutation.empty()) return absl::OkStatus();
  std::vector<bool> seen(t.cols);
  if (static_cast<int64_t>(permutation.size()) != t.cols) {
    return absl::InvalidArgumentError("the column permutation has another length than the matrix");
  }
  for (const int32_t column : permutation) {
    if (column < 0 || column >= t.cols || seen[column]) {
      return absl::InvalidArgumentError(
          absl::StrCat("column ", column, " is out of range or twice in the permutation"));
    }
    seen[column] = true;
  }
  return absl::OkStatus();
}

absl::Status CheckOutliers(const QuantizedTensor& t) {
  const Outliers& o = t.outliers;
  if (o.row_begin.empty()) return absl::OkStatus();
  bool ok = static_cast<int64_t>(o.row_begin.size()) == t.rows + 1 && o.row_begin.front() == 0 &&
            o.row_begin.back() == static_cast<int64_t>(o.column.size()) &&
            o.column.size() == o.value.size() &&
            std::is_sorted(o.row_begin.begin(), o.row_begin.end());
  ok = ok && std::all_of(o.column.begin(), o.column.end(),
                         [&](int32_t c) { return c >= 0 && c < t.cols; });
  return ok ? absl::OkStatus() : absl::InvalidArgumentError("the outlier index is inconsistent");
}

}  // namespace

Grid UniformGrid(int bits, bool is_signed) {
  Grid grid;
  grid.bits = bits;
  grid.first = is_signed ? -(1 << (bits - 1)) : 0;
  return grid;
}

Grid TableGrid(int bits, std::vector<float> table) {
  Grid grid;
  grid.kind = Grid::Kind::kTable;
  grid.bits = bits;
  grid.table = std::move(table);
  return grid;
}

Grid E4M3Grid() {
  std::vector<float> table(256);
  for (int i = 0; i < 256; ++i) table[i] = FloatFromE4M3(static_cast<uint8_t>(i));
  Grid grid = TableGrid(8, std::move(table));
  grid.is_e4m3 = true;
  return grid;
}

BlockShape GroupBlocks(int64_t rows, int64_t cols, int64_t size, int axis) {
  if (axis == 0) return {.rows = 1, .cols = rows * cols / size, .flat = true, .strided = true};
  return {.rows = 1, .cols = size, .flat = cols % size != 0};
}

int64_t QuantizedTensor::block_columns() const {
  return block.flat ? 1 : CeilDiv(cols, TileCols(*this));
}

int64_t QuantizedTensor::block_count() const {
  if (rows == 0 || cols == 0) return 0;
  if (block.strided) return block.cols;
  if (block.flat) return CeilDiv(rows * cols, block.cols);
  return CeilDiv(rows, TileRows(*this)) * block_columns();
}

int64_t QuantizedTensor::block_of(int64_t row, int64_t col) const {
  if (block.strided) return (row * cols + col) % block.cols;
  if (block.flat) return (row * cols + col) / block.cols;
  return row / TileRows(*this) * block_columns() + col / TileCols(*this);
}

double QuantizedTensor::bits_per_weight() const {
  const double weights = static_cast<double>(rows) * static_cast<double>(cols);
  if (weights == 0) return 0;
  const double codes_per_weight = grid.kind == Grid::Kind::kCodebook
                                      ? static_cast<double>(grid.codebooks) / grid.vector_length
                                      : 1.0;
  double bits = codes_per_weight * grid.bits * weights;
  const double blocks = static_cast<double>(block_count());
  if (nested) {
    bits += 8.0 * (nested->scale_codes.size() + nested->offset_codes.size());
    bits += 32.0 * (nested->super_scale.size() + nested->super_offset.size());
  } else {
    bits += 8.0 * SizeOf(scale_dtype) * (blocks + offset.size());
    bits += 8.0 * zero_point.size();
  }
  bits += 64.0 * outliers.column.size();
  return bits / weights;
}

absl::Status Validate(const QuantizedTensor& t) {
  if (t.rows < 0 || t.cols < 0) return absl::InvalidArgumentError("negative matrix dimensions");
  if (t.block.flat && t.block.cols <= 0) {
    return absl::InvalidArgumentError("flat blocks need a positive block size");
  }
  if (t.block.strided && (!t.block.flat || t.rows * t.cols % t.block.cols != 0)) {
    return absl::InvalidArgumentError("strided blocks must be flat and of equal size");
  }
  int64_t codes = t.rows * t.cols;
  if (t.grid.kind == Grid::Kind::kCodebook) {
    if (t.grid.vector_length <= 0 || t.cols % t.grid.vector_length != 0) {
      return absl::InvalidArgumentError("the vector length does not divide the columns");
    }
    codes = codes / t.grid.vector_length * t.grid.codebooks;
  }
  RETURN_IF_ERROR(t.wide_codes.empty() ? CheckCodes(t.codes, codes, t.grid.bits)
                                       : CheckCodes(t.wide_codes, codes, t.grid.bits));
  const int64_t blocks = t.block_count();
  RETURN_IF_ERROR(CheckPerBlock("scale", t.scale.size(), blocks, /*optional=*/false));
  RETURN_IF_ERROR(CheckPerBlock("zero_point", t.zero_point.size(), blocks, /*optional=*/true));
  RETURN_IF_ERROR(CheckPerBlock("offset", t.offset.size(), blocks, /*optional=*/true));
  const int hadamard = t.input.hadamard_size;
  if (hadamard < 0 || (hadamard > 0 && t.cols % hadamard != 0) || (hadamard & (hadamard - 1))) {
    return absl::InvalidArgumentError(
        absl::StrCat("found a rotation of ", hadamard,
                     " columns, expected a power of two that divides ", t.cols));
  }
  RETURN_IF_ERROR(CheckPermutation(t));
  return CheckOutliers(t);
}

void DequantizeRows(const QuantizedTensor& t, int64_t first, int64_t count, float* out) {
  const bool permuted = !t.input.permutation.empty();
  std::vector<float> unpermuted(permuted ? t.cols : 0);
  for (int64_t row = first; row < first + count; ++row) {
    float* line = out + (row - first) * t.cols;
    float* values = permuted ? unpermuted.data() : line;
    for (int64_t col = 0; col < t.cols;) {
      const int64_t end = BlockEnd(t, row, col);
      DequantizeRun(t, row, col, end, values);
      col = end;
    }
    if (t.dequantized_dtype != DType::kF32) {
      for (int64_t c = 0; c < t.cols; ++c) values[c] = RoundTo(t.dequantized_dtype, values[c]);
    }
    for (int64_t c = 0; permuted && c < t.cols; ++c) line[t.input.permutation[c]] = values[c];
    if (t.outliers.row_begin.empty()) continue;
    for (int64_t i = t.outliers.row_begin[row]; i < t.outliers.row_begin[row + 1]; ++i) {
      line[t.outliers.column[i]] += t.outliers.value[i];
    }
  }
}

std::vector<float> Dequantize(const QuantizedTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.rows * tensor.cols));
  ParallelFor(tensor.rows,
              [&](int64_t row) { DequantizeRows(tensor, row, 1, out.data() + row * tensor.cols); });
  return out;
}

void PlainRows(const QuantizedTensor& t, int64_t first, int64_t count, float* out) {
  DequantizeRows(t, first, count, out);
  for (float* line = out; line != out + count * t.cols; line += t.cols) {
    if (t.input.hadamard_size > 1) RotateByHadamard(line, t.cols, t.input.hadamard_size);
    for (size_t c = 0; c < t.input.channel_scale.size(); ++c) line[c] /= t.input.channel_scale[c];
  }
}

absl::StatusOr<QuantizedTensor> ReorderRows(const QuantizedTensor& tensor,
                                            const std::vector<int64_t>& order) {
  if (tensor.block.flat || tensor.block.rows != 1 || !tensor.outliers.row_begin.empty() ||
      tensor.grid.kind == Grid::Kind::kCodebook) {
    return absl::UnimplementedError("rows that share scales cannot be reordered");
  }
  QuantizedTensor out = tensor;
  const int64_t blocks = tensor.block_columns();
  const auto move = [&order](const auto& from, auto& to, int64_t width) {
    if (from.empty()) return;
    for (size_t row = 0; row < order.size(); ++row) {
      std::copy_n(from.begin() + order[row] * width, width, to.begin() + row * width);
    }
  };
  move(tensor.codes, out.codes, tensor.cols);
  move(tensor.scale, out.scale, blocks);
  move(tensor.zero_point, out.zero_point, blocks);
  move(tensor.offset, out.offset, blocks);
  if (!tensor.nested) return out;
  move(tensor.nested->scale_codes, out.nested->scale_codes, blocks);
  move(tensor.nested->offset_codes, out.nested->offset_codes, blocks);
  if (blocks % tensor.nested->super_size != 0) {
    return absl::UnimplementedError("rows that share super scales cannot be reordered");
  }
  const int64_t supers = blocks / tensor.nested->super_size;
  move(tensor.nested->super_scale, out.nested->super_scale, supers);
  move(tensor.nested->super_offset, out.nested->super_offset, supers);
  return out;
}

}  // namespace quantd

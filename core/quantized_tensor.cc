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

// Value of the code at column `col` of row `row`, before scaling; not of a codebook.
float GridValue(const QuantizedTensor& t, int64_t row, int64_t col) {
  const uint8_t code = t.codes[row * t.cols + col];
  return t.grid.kind == Grid::Kind::kTable
             ? t.grid.table[code]
             : static_cast<float>(static_cast<int>(code) + t.grid.first);
}

// The sums of a row's vectors: `cols` values.
template <class Code>
void CodebookRow(const Grid& grid, const std::vector<Code>& codes, int64_t row, int64_t cols,
                 float* out) {
  const int64_t length = grid.vector_length;
  const Code* line = codes.data() + row / grid.vector_rows * (cols / length) * grid.codebooks;
  const float* part = grid.table.data() + row % grid.vector_rows * length;
  for (int k = 0; k < grid.codebooks; ++k) {
    for (int64_t v = 0; v < cols / length; ++v) {
      const float* entry = part + line[v * grid.codebooks + k] * grid.vector_size();
      for (int64_t i = 0; i < length; ++i) {
        float& value = out[v * length + i];
        value = k == 0 ? entry[i] : value + entry[i];
      }
    }
    part += grid.vector_size() << grid.bits_of(k);
  }
}

void CodebookValues(const QuantizedTensor& t, int64_t row, float* out) {
  for (const ColumnRun& run : t.leading) {
    CodebookRow(run.grid, run.wide_codes, row, run.cols, out);
    out += run.cols;
  }
  const int64_t cols = t.cols - t.leading_columns();
  if (t.wide_codes.empty()) {
    CodebookRow(t.grid, t.codes, row, cols, out);
  } else {
    CodebookRow(t.grid, t.wide_codes, row, cols, out);
  }
}

// First column after `col` that lies in another block (or after the row).
int64_t BlockEnd(const QuantizedTensor& t, int64_t row, int64_t col) {
  if (t.block.strided) return t.block.cols == 1 ? t.cols : col + 1;
  const int64_t width = TileCols(t);
  const int64_t position = t.block.flat ? row * t.cols + col : col;
  return std::min(t.cols, col + width - position % width);
}

// Columns [begin, end) of a row whose every operation rounds to the output's dtype. Runs may be as
// short as one column (strided blocks). `out` holds the values of a codebook.
void DequantizeInSteps(const QuantizedTensor& t, int64_t row, int64_t begin, int64_t end,
                       float* out) {
  const int64_t block = t.block_of(row, begin);
  const DType dtype = t.dequantized_dtype;
  const float zero_point = t.zero_point.empty() ? 0.0f : t.zero_point[block];
  const float scale = t.scale[block], post_scale = t.post_scale;
  const bool codebook = t.grid.kind == Grid::Kind::kCodebook;
  for (int64_t c = begin; c < end; ++c) {
    out[c] = (codebook ? out[c] : GridValue(t, row, c)) - zero_point;
  }
  RoundAllTo(dtype, out + begin, end - begin);
  for (int64_t c = begin; c < end; ++c) out[c] = out[c] * scale * post_scale;
  RoundAllTo(dtype, out + begin, end - begin);
  if (t.offset.empty()) return;
  const float offset = t.offset[block];
  for (int64_t c = begin; c < end; ++c) out[c] += offset;
  RoundAllTo(dtype, out + begin, end - begin);
}

// Columns [begin, end) of a row, which share a block, before rounding to the output's dtype. `out`
// holds the values of a codebook.
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
      out[c] = (out[c] - zero_point) * scale * post_scale + offset;
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

void ScaleColumns(const QuantizedTensor& t, float* line) {
  const DType dtype = t.rounds_each_step ? t.dequantized_dtype : DType::kF32;
  for (size_t c = 0; c < t.column_scale.size(); ++c) {
    line[c] = RoundTo(dtype, line[c] * t.column_scale[c]);
  }
  for (size_t c = 0; c < t.column_offset.size(); ++c) {
    line[c] = RoundTo(dtype, line[c] + t.column_offset[c]);
  }
}

void AddOutliers(const QuantizedTensor& t, int64_t row, float* line) {
  const Outliers& o = t.outliers;
  const int64_t begin = o.row_begin[row], end = o.row_begin[row + 1];
  for (int64_t i = begin; i < end; ++i) line[o.column[i]] += o.value[i];
  for (int64_t i = begin; i < end; ++i) {
    line[o.column[i]] = RoundTo(t.dequantized_dtype, line[o.column[i]]);
  }
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

int64_t Grid::table_size() const {
  if (kind == Kind::kUniform) return 0;
  if (kind == Kind::kTable) return int64_t{1} << bits;
  int64_t entries = 0;
  for (int k = 0; k < codebooks; ++k) entries += int64_t{1} << bits_of(k);
  return entries * vector_size();
}

int64_t Grid::code_count(int64_t rows, int64_t cols) const {
  if (kind != Kind::kCodebook) return rows * cols;
  return CeilDiv(rows, vector_rows) * (cols / vector_length) * codebooks;
}

int64_t QuantizedTensor::leading_columns() const {
  int64_t columns = 0;
  for (const ColumnRun& run : leading) columns += run.cols;
  return columns;
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

void DequantizeRows(const QuantizedTensor& t, int64_t first, int64_t count, float* out) {
  const bool permuted = !t.input.permutation.empty();
  std::vector<float> unpermuted(permuted ? t.cols : 0);
  for (int64_t row = first; row < first + count; ++row) {
    float* line = out + (row - first) * t.cols;
    float* values = permuted ? unpermuted.data() : line;
    if (t.grid.kind == Grid::Kind::kCodebook) CodebookValues(t, row, values);
    for (int64_t col = 0; col < t.cols;) {
      const int64_t end = BlockEnd(t, row, col);
      DequantizeRun(t, row, col, end, values);
      col = end;
    }
    for (int64_t c = 0; permuted && c < t.cols; ++c) line[t.input.permutation[c]] = values[c];
    ScaleColumns(t, line);
    RoundAllTo(t.dequantized_dtype, line, t.cols);
    if (!t.outliers.row_begin.empty()) AddOutliers(t, row, line);
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
  const std::vector<float>& rotation = t.input.rotation;
  std::vector<float> rotated(rotation.empty() ? 0 : t.cols);
  for (float* line = out; line != out + count * t.cols; line += t.cols) {
    if (!rotation.empty()) {
      std::copy_n(line, t.cols, rotated.begin());
      MultiplyByTransposed(rotated.data(), t.cols, rotation.data(), t.input.hadamard_size, line);
    } else if (t.input.hadamard_size > 1) {
      RotateByHadamard(line, t.cols, t.input.hadamard_size);
    }
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

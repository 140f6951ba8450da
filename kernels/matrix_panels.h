// What products of matrices share: operands laid out in panels, and the parts that tasks fill.
#ifndef QUANTD_KERNELS_MATRIX_PANELS_H_
#define QUANTD_KERNELS_MATRIX_PANELS_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/matrix_product.h"

namespace quantd {

// Panels of kWidth rows (6 or 32) of `from` [rows, inner]: [inner, kWidth] each, zeros past the
// last row.
template <int kWidth>
void PackPanels(const MatrixOperand& from, int64_t rows, int64_t inner, float* to);
extern template void PackPanels<6>(const MatrixOperand&, int64_t, int64_t, float*);
extern template void PackPanels<32>(const MatrixOperand&, int64_t, int64_t, float*);

// C [rows, cols] += A B by the calling thread, in panels of slices of `slice` of the inner
// dimension, one slice after the other. `prepare(values, count)` sees every packed operand;
// `tile(a, b, inner, c, c_stride)` adds one tile of panels a [inner, kTileRows] and b [inner,
// kTileCols].
template <int kTileRows, int kTileCols, class Prepare, class Tile>
void AddByPanels(int64_t rows, int64_t cols, int64_t inner, int64_t slice, const MatrixOperand& a,
                 const MatrixOperand& b, float* c, int64_t c_stride, const Prepare& prepare,
                 const Tile& tile) {
  thread_local std::vector<float> left, right;
  const int64_t row_panels = (rows + kTileRows - 1) / kTileRows;
  const int64_t col_panels = (cols + kTileCols - 1) / kTileCols;
  for (int64_t first = 0; first < inner; first += slice) {
    const int64_t depth = std::min(slice, inner - first);
    left.resize(static_cast<size_t>(row_panels * kTileRows * depth));
    right.resize(static_cast<size_t>(col_panels * kTileCols * depth));
    PackPanels<kTileRows>({a.data + first * a.col_stride, a.row_stride, a.col_stride}, rows, depth,
                          left.data());
    PackPanels<kTileCols>({b.data + first * b.row_stride, b.col_stride, b.row_stride}, cols, depth,
                          right.data());
    prepare(left.data(), static_cast<int64_t>(left.size()));
    prepare(right.data(), static_cast<int64_t>(right.size()));
    for (int64_t j = 0; j < col_panels; ++j) {
      for (int64_t i = 0; i < row_panels; ++i) {
        const float* a_panel = left.data() + i * kTileRows * depth;
        const float* b_panel = right.data() + j * kTileCols * depth;
        float* to = c + i * kTileRows * c_stride + j * kTileCols;
        const int64_t height = std::min<int64_t>(kTileRows, rows - i * kTileRows);
        const int64_t width = std::min<int64_t>(kTileCols, cols - j * kTileCols);
        if (height == kTileRows && width == kTileCols) {
          tile(a_panel, b_panel, depth, to, c_stride);
          continue;
        }
        alignas(64) float edge[kTileRows * kTileCols] = {};
        for (int64_t r = 0; r < height; ++r) {
          std::copy_n(to + r * c_stride, width, edge + r * kTileCols);
        }
        tile(a_panel, b_panel, depth, edge, kTileCols);
        for (int64_t r = 0; r < height; ++r) {
          std::copy_n(edge + r * kTileCols, width, to + r * c_stride);
        }
      }
    }
  }
}

struct MatrixPart {
  int64_t row = 0, col = 0;    // where it begins
  int64_t rows = 0, cols = 0;  // 0: nothing left
};

// A matrix [rows, cols] in parts of about one size, `most` at most, of whole tiles but the last.
class MatrixParts {
 public:
  struct Size {
    int64_t rows, cols;
  };
  MatrixParts(int64_t rows, int64_t cols, Size most, Size tile)
      : rows_(rows),
        cols_(cols),
        across_((cols + most.cols - 1) / most.cols),
        down_((rows + most.rows - 1) / most.rows),
        part_rows_(PartOf(rows, down_, tile.rows)),
        part_cols_(PartOf(cols, across_, tile.cols)) {}

  int64_t count() const { return down_ * across_; }
  MatrixPart operator[](int64_t index) const {
    const int64_t i = index / across_ * part_rows_, j = index % across_ * part_cols_;
    if (i >= rows_ || j >= cols_) return {};
    return {i, j, std::min(part_rows_, rows_ - i), std::min(part_cols_, cols_ - j)};
  }
  // Of one part.
  double multiplications(int64_t inner) const {
    return static_cast<double>(part_rows_ * part_cols_ * inner);
  }

 private:
  static int64_t PartOf(int64_t size, int64_t parts, int64_t tile) {
    const int64_t each = (size + parts - 1) / parts;
    return (each + tile - 1) / tile * tile;
  }

  const int64_t rows_, cols_, across_, down_, part_rows_, part_cols_;
};

}  // namespace quantd

#endif  // QUANTD_KERNELS_MATRIX_PANELS_H_

// What products of matrices share: operands laid out in panels, and the parts that tasks fill.
#ifndef QUANTD_KERNELS_MATRIX_PANELS_H_
#define QUANTD_KERNELS_MATRIX_PANELS_H_

#include <algorithm>
#include <cstdint>

#include "kernels/matrix_product.h"

namespace quantd {

// Panels of kWidth rows (6 or 32) of `from` [rows, inner]: [inner, kWidth] each, zeros past the
// last row.
template <int kWidth>
void PackPanels(const MatrixOperand& from, int64_t rows, int64_t inner, float* to);
extern template void PackPanels<6>(const MatrixOperand&, int64_t, int64_t, float*);
extern template void PackPanels<32>(const MatrixOperand&, int64_t, int64_t, float*);

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

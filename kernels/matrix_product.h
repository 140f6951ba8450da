// Dense float32 products for calibration: any strides, the same bits on every machine.
#ifndef QUANTD_KERNELS_MATRIX_PRODUCT_H_
#define QUANTD_KERNELS_MATRIX_PRODUCT_H_

#include <cstdint>

namespace quantd {

// Element (i, j) is at data[i * row_stride + j * col_stride].
struct MatrixOperand {
  const float* data = nullptr;
  int64_t row_stride = 0;
  int64_t col_stride = 1;

  MatrixOperand Transposed() const { return {data, col_stride, row_stride}; }
};

// C += A B with A [rows, inner], B [inner, cols] and C [rows, cols] whose rows are c_stride apart.
// Every element is a chain of fused multiply-adds over slices of 256 of the inner dimension, in
// order, whose sums are added to C in order: the result does not depend on threads or ISA. In
// parallel by ParallelFor, but for small products.
void AddMatrixProduct(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
                      const MatrixOperand& b, float* c, int64_t c_stride);

}  // namespace quantd

#endif  // QUANTD_KERNELS_MATRIX_PRODUCT_H_

// Dense products of operands rounded to bfloat16, for training: the same bits on every machine, and
// many times as fast where the processor multiplies tiles (AMX).
#ifndef QUANTD_KERNELS_BFLOAT16_PRODUCT_H_
#define QUANTD_KERNELS_BFLOAT16_PRODUCT_H_

#include <cstdint>

#include "kernels/matrix_product.h"

namespace quantd {

// C += A B as AddMatrixProduct, of finite elements rounded to bfloat16 (to nearest, ties to even;
// below 2^-50 they count as zero, so that no sum is ever subnormal). Every element: over slices of
// 32 of the inner dimension, a chain of fused multiply-adds of the even indices and one of the odd;
// their sum is added to C, slice after slice. That is what TDPBF16PS computes (Intel SDM, volume
// 2); other processors do the same with float32 instructions.
void AddBFloat16Product(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
                        const MatrixOperand& b, float* c, int64_t c_stride);

// The arithmetic of one instruction set.
struct BFloat16Product {
  const char* isa;
  // C += A B by the calling thread.
  void (*add)(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
              const MatrixOperand& b, float* c, int64_t c_stride);
};
// All that this processor runs, the fastest last; null-terminated.
const BFloat16Product* const* AllBFloat16Products();

}  // namespace quantd

#endif  // QUANTD_KERNELS_BFLOAT16_PRODUCT_H_

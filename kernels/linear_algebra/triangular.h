// Factorizations of symmetric and triangular float32 matrices for calibrated solvers (GPTQ and its
// kin). All matrices are square, row-major and dense; triangles are overwritten in place. Results
// do not depend on threads, instruction set or machine: everything is built of AddMatrixProduct and
// of plain float arithmetic in a fixed order. In parallel by ParallelFor, so inference gets in
// between. `stopped` is asked between blocks of 128 columns, some milliseconds at 4096 columns:
// when it says so, a function ends soon, says so by kStopped, and leaves its matrix undefined.
#ifndef QUANTD_KERNELS_LINEAR_ALGEBRA_TRIANGULAR_H_
#define QUANTD_KERNELS_LINEAR_ALGEBRA_TRIANGULAR_H_

#include <cstdint>
#include <functional>

namespace quantd {

constexpr int64_t kStopped = -1;

// A = L L^T. Reads the lower triangle of `a` [n, n] and leaves L in it; what is above the diagonal
// is undefined after. Blocked and right-looking (LAPACK's spotrf). Returns n, or the index of the
// first pivot that is not a positive number, and then leaves `a` undefined.
int64_t CholeskyLower(float* a, int64_t n, const std::function<bool()>& stopped = {});

// L^-1 in place of the lower triangle L, whose diagonal has no zero. Above the diagonal is ignored.
// Returns n.
int64_t InvertLower(float* l, int64_t n, const std::function<bool()>& stopped = {});

// The upper triangular U with U^T U = A^-1, in place of the symmetric positive definite `a`; zeros
// below the diagonal. It is the inverse of the upper triangle R of A = R R^T, which takes one
// factorization and one inversion instead of GPTQ's two and two. Returns n, or how many pivots were
// positive; `a` is undefined then.
int64_t UpperFactorOfInverse(float* a, int64_t n, const std::function<bool()>& stopped = {});

}  // namespace quantd

#endif  // QUANTD_KERNELS_LINEAR_ALGEBRA_TRIANGULAR_H_

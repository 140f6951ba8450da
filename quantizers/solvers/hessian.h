// The Hessian of a layer's squared error, made ready for solvers that spread the error of a column
// over the later ones (GPTQ and its kin).
#ifndef QUANTD_QUANTIZERS_SOLVERS_HESSIAN_H_
#define QUANTD_QUANTIZERS_SOLVERS_HESSIAN_H_

#include <span>
#include <vector>

#include "core/float_buffer.h"
#include "core/status.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

struct OrderedHessian {
  std::vector<int32_t> order;  // column c of the solver is column order[c] of the matrix
  std::vector<bool> dead;      // of the solver's columns: inputs that are always zero
  FloatBuffer factor;          // upper triangular U with U^T U = H^-1, [cols, cols]
};

// Orders the columns of the symmetric `hessian` [cols, cols] by falling diagonal if `act_order`,
// gives dead ones a diagonal of 1 and adds `damping` times the mean diagonal to all.
// FAILED_PRECONDITION when it is not positive definite then; CANCELLED soon after `stopped`.
absl::StatusOr<OrderedHessian> OrderHessian(std::span<const float> hessian, int64_t cols,
                                            bool act_order, double damping,
                                            const StopRequest& stopped);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_HESSIAN_H_

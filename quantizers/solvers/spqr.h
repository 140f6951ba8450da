// SpQR: A Sparse-Quantized Representation for Near-Lossless LLM Weight Compression (Dettmers et al.
// 2023, arXiv:2306.03078; Vahe1994/SpQR 543d10e, spqr_engine.py and quant_groups.py). GPTQ over
// groups of 16 columns whose scales and zero points are quantized too, with the weights that would
// cost most kept as outliers.
#ifndef QUANTD_QUANTIZERS_SOLVERS_SPQR_H_
#define QUANTD_QUANTIZERS_SOLVERS_SPQR_H_

#include <limits>
#include <span>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

// The README's settings; 3 bits, groups of 16 and second-order groups of 16 are the format's.
struct SpqrSpec {
  double outlier_threshold =
      0.2;                // relative to the mean error of dropping a weight; infinity: none
  double percdamp = 1.0;  // added to the Hessian's diagonal, relative to its mean
  bool act_order = true;  // columns by falling Hessian diagonal, else as they are
  bool simplified_outliers = false;  // fit the groups with the outliers in them
  // Outliers are what the dense part lacks of the weight. Upstream stores the whole weight, to
  // which its own dequantization adds the dense part's value for 0.
  bool exact_outliers = false;
};

// `weight` [rows, cols] in float32, both multiples of 16; `gram` [cols, cols], a positive multiple
// of the sum of x x^T over the calibration tokens. Gives codes, scales, permutation and outliers by
// rows. FAILED_PRECONDITION when the Hessian is not positive definite even so; CANCELLED when
// stopped.
absl::StatusOr<QuantizedTensor> SolveSpqr(std::span<const float> weight, int64_t rows, int64_t cols,
                                          std::span<const float> gram, const SpqrSpec& spec,
                                          const StopRequest& stopped);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SPQR_H_

// VPTQ: Extreme Low-bit Vector Post-Training Quantization (Liu et al. 2024, arXiv:2409.17066;
// microsoft/VPTQ, branch algorithm). GPTQ whose columns are rounded to centroids of vectors down
// the rows, with a second codebook for what the first one leaves.
//
// Upstream's Hessian, "H + mu mu^T" (utils/hessian.py), is no more than the mean of x x^T: the
// files it reads hold the covariance (QuIP#'s hessian_offline_llama.py takes mu mu^T off before
// saving). Two things differ. Errors of normalized columns count by their scale here, as they do in
// the outputs. And the second codebook is that of what k-means left, where upstream takes what a
// pass of GPTQ with the first one left: that came out 1.2 % worse on a correlated 1024 x 1024 layer
// with 256 and 256 centroids, for three seeds, and takes a pass more.
#ifndef QUANTD_QUANTIZERS_SOLVERS_VECTOR_GPTQ_H_
#define QUANTD_QUANTIZERS_SOLVERS_VECTOR_GPTQ_H_

#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

struct VectorGptqSpec {
  int vector_len = 8;
  int64_t centroids = 256;
  int64_t residual_centroids = 0;  // 0: none
  int64_t outlier_size = 0;        // columns with vectors and centroids of their own
  int outlier_vector_len = 0;
  int64_t outlier_centroids = 0;
  int64_t group_num = 1;    // groups of the other columns, which it divides
  bool enable_norm = true;  // columns are shifted and scaled to 0..1
  bool enable_perm = true;  // columns by falling Hessian diagonal
  double percdamp = 0.01;   // added to the Hessian's diagonal, relative to its mean
  int kiter = 100;          // iterations of k-means
  double ktol = 1e-5;       // its tolerance
  uint64_t seed = 0;
  DType dtype = DType::kF16;  // that centroids, scales and biases are rounded to
};

// Consecutive columns, in the solver's order, that share codebooks.
struct VectorColumns {
  int64_t first = 0, cols = 0;
  int vector_len = 0;
  std::vector<float> centroids;         // [centroids, vector_len]
  std::vector<float> residual;          // [residual centroids, vector_len], or empty
  std::vector<int32_t> codes;           // [rows / vector_len rounded up, cols]
  std::vector<int32_t> residual_codes;  // the same, or empty
};

struct VectorGptqResult {
  std::vector<VectorColumns> columns;  // outliers first
  std::vector<int32_t> order;          // column c of the solver is column order[c] of the matrix
  std::vector<float> column_scale, column_offset;  // of the matrix's columns, or empty
};

// `weight` [rows, cols] in float32; `gram` [cols, cols], a positive multiple of the sum of x x^T
// over the calibration tokens. FAILED_PRECONDITION when it is not positive definite even when
// damped; CANCELLED when stopped.
absl::StatusOr<VectorGptqResult> SolveVectorGptq(std::span<const float> weight, int64_t rows,
                                                 int64_t cols, std::span<const float> gram,
                                                 const VectorGptqSpec& spec,
                                                 const StopRequest& stopped);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_VECTOR_GPTQ_H_

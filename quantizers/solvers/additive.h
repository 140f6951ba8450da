// AQLM: Additive Quantization of Language Models (Egiazarian et al. 2024, arXiv:2401.06118;
// Vahe1994/AQLM e79a896, aq.py, aq_engine.py, kmeans.py). Every tile of weights becomes a scaled
// sum of vectors, chosen and trained to keep the layer's outputs on calibration inputs.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_H_
#define QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_H_

#include <span>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

// Options of main.py under their names, with its defaults where not noted.
struct AdditiveSpec {
  int in_group_size = 8;
  int out_group_size = 1;
  int num_codebooks = 1;
  int nbits_per_codebook = 16;
  int init_max_iter = 100;
  int max_epochs = 1000;
  int steps_per_epoch = 100;
  double relative_mse_tolerance = 0.01;  // the README's; below 0 for none, which is main.py's
  float lr = 1e-4f;
  int beam_size = 1;
  uint64_t seed = 0;

  int64_t entries() const { return int64_t{1} << nbits_per_codebook; }
  int size() const { return in_group_size * out_group_size; }
};

struct AdditiveResult {
  std::vector<float> codebooks;  // [codebooks, entries, out group, in group]
  std::vector<float> scales;     // [rows / out group]
  std::vector<int32_t> codes;    // [rows / out group, cols / in group, codebooks]
};

// `weight` [rows, cols] in float32 and `gram` [cols, cols], the mean of x x^T over the calibration
// tokens. Groups divide rows and columns, and there are at least 2^bits tiles. Minimizes
// tr((W' - W) gram (W' - W)^T): residual k-means, then epochs of Adam on codebooks and scales
// followed by a beam search over the codes. CANCELLED when stopped.
absl::StatusOr<AdditiveResult> SolveAdditive(std::span<const float> weight, int64_t rows,
                                             int64_t cols, std::span<const float> gram,
                                             const AdditiveSpec& spec, const StopRequest& stopped);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_H_

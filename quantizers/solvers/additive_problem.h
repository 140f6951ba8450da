// What the steps of the AQLM solver share. Private to it.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_
#define QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_

#include <span>
#include <vector>

#include "quantizers/solvers/adam.h"
#include "quantizers/solvers/additive.h"
#include "quantizers/solvers/k_means.h"

namespace quantd {

// The matrix in tiles: `groups` bands of rows by `tiles` tiles across.
struct AdditiveProblem {
  std::span<const float> weight;  // [rows, cols]
  std::span<const float> gram;    // [cols, cols]
  int64_t rows = 0, cols = 0;
  AdditiveSpec spec;
  StopRequest stopped;

  int64_t groups() const { return rows / spec.out_group_size; }
  int64_t tiles() const { return cols / spec.in_group_size; }
  int64_t group_size() const { return spec.out_group_size * cols; }  // weights of a band
  // The sum of the vectors of tile `tile` of band `group`, unscaled.
  void SumVectors(const AdditiveResult& state, int64_t group, int64_t tile, float* out) const;
  // W - W' of one band, [out group, cols].
  void Difference(const AdditiveResult& state, int64_t group, float* out) const;
};

// Adam on codebooks and scales while the codes stay. Reads of the problem its sizes and `stopped`.
class AdditiveAdam {
 public:
  AdditiveAdam(const AdditiveProblem& problem, const AdamSpec& spec);
  // Call before the first Step, and when the codes have changed.
  void TakeCodes(const AdditiveResult& state);
  // A step by `factor` times `weight_gradient`, the gradient in W' [rows, cols], and by
  // `scale_gradient`, that in the scales. CANCELLED, with part of it done, when stopped.
  absl::Status Step(std::span<const float> weight_gradient, float factor,
                    std::span<const float> scale_gradient, AdditiveResult* state);

 private:
  const AdditiveProblem& p_;
  Adam codebooks_, scales_;
  struct Place {
    int64_t first;  // of the tile's first weight
    int64_t group;
  };
  struct Uses {
    std::vector<int64_t> begin;  // by code, and the end
    std::vector<Place> places;   // of the tiles in the order of their codes
  };
  std::vector<Uses> uses_;  // of each codebook
};

// Trains codebooks and scales.
class AdditiveTrainer {
 public:
  explicit AdditiveTrainer(const AdditiveProblem& problem);
  // tr((W - W') gram (W - W')^T).
  absl::StatusOr<double> Error(const AdditiveResult& state) { return Gradients(state); }
  // steps_per_epoch steps.
  absl::Status Train(AdditiveResult* state);

 private:
  // The error; leaves its gradient in W' over -2 / rows, and that in the scales.
  absl::StatusOr<double> Gradients(const AdditiveResult& state);

  const AdditiveProblem& problem_;
  AdditiveAdam adam_;
  std::vector<float> weight_gradient_;  // (W - W') gram, [rows, cols]
  std::vector<float> scale_gradient_;   // [groups]
};

// Chooses all codes anew, tile by tile in random order, keeping the best spec.beam_size versions of
// every band.
absl::Status SearchCodes(const AdditiveProblem& problem, uint64_t seed, AdditiveResult* state);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_

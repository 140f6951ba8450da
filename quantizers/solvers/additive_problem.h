// What the steps of the AQLM solver share. Private to it.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_
#define QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_

#include <span>
#include <vector>

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

// Adam (Kingma & Ba 2015) with beta1 0, beta2 0.95 and AMSGrad, as torch does it.
class Adam {
 public:
  Adam(size_t count, float lr) : lr_(lr), square_(count), largest_(count) {}
  // Begins a step; then Update may be called for every parameter, in any order.
  void Begin() { remaining_ *= 0.95; }
  void Update(size_t i, float gradient, float* parameter);

 private:
  float lr_;
  double remaining_ = 1;  // 0.95^steps
  std::vector<float> square_, largest_;
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
  absl::Status StepCodebooks(const std::vector<ByCode>& by_code, AdditiveResult* state);

  const AdditiveProblem& problem_;
  Adam codebook_adam_, scale_adam_;
  std::vector<float> weight_gradient_;  // (W - W') gram, [rows, cols]
  std::vector<float> scale_gradient_;   // [groups]
};

// Chooses all codes anew, tile by tile in random order, keeping the best spec.beam_size versions of
// every band.
absl::Status SearchCodes(const AdditiveProblem& problem, uint64_t seed, AdditiveResult* state);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ADDITIVE_PROBLEM_H_

// Statistics of a linear's inputs, taken in one pass over the tokens. The door for single matrices
// and the calibration of whole models fill the same class.
#ifndef QUANTD_QUANTIZERS_INPUT_STATISTICS_H_
#define QUANTD_QUANTIZERS_INPUT_STATISTICS_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/scheme.h"

namespace quantd {

// Results depend on the rows and their order alone: not on how Add cuts them, nor on the number of
// threads or the instruction set.
class InputStatistics {
 public:
  // `tokens` is the number of rows that all calls of Add will bring.
  InputStatistics(int64_t cols, const InputNeeds& needs, int64_t tokens);

  // The next rows [count, cols]. INVALID_ARGUMENT naming token and channel of a NaN or an infinity.
  absl::Status Add(std::span<const float> rows);
  // The same for rows that are known to have none.
  void AddFinite(std::span<const float> rows);
  // The rows since the last call, at least one, were a sequence of the calibration set.
  void EndSequence();
  // After the last row. INVALID_ARGUMENT when sums of products are beyond float32.
  absl::Status Finish();

  // What was asked for; lives as long as this.
  InputStats View(SolverControl* control = nullptr) const;

  // Memory that this takes, the tokens in flight included.
  static uint64_t Bytes(int64_t cols, const InputNeeds& needs, int64_t tokens);

 private:
  void AddColumnSums(std::span<const float> rows);
  void AddSamples(std::span<const float> rows);
  void AddGram(std::span<const float> rows);
  void Mirror();

  const int64_t cols_;
  const InputNeeds needs_;
  const int64_t tokens_;
  int64_t seen_ = 0;
  std::vector<double> squares_, magnitudes_;  // sums
  std::vector<float> importance_, mean_magnitude_, minimum_, maximum_, gram_, samples_;
  std::vector<float> least_, greatest_;  // of the sequences so far, the one that goes on last
  bool within_sequence_ = false;
  std::vector<float> pending_;  // rows that wait for a full slice of the gram matrix
};

// The statistics of `inputs`, a float tensor [..., cols]: one sequence, or with three dimensions
// and more as many as the first ones say. INVALID_ARGUMENT for another dtype or shape, for no rows
// at all, and for what Add and Finish refuse.
absl::StatusOr<InputStatistics> StatisticsOf(const TensorView& inputs, int64_t cols,
                                             const InputNeeds& needs);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_INPUT_STATISTICS_H_

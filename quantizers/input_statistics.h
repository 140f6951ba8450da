// Statistics of a linear's inputs, taken in one pass over the tokens. The door for single matrices
// and the calibration of whole models fill the same class.
#ifndef QUANTD_QUANTIZERS_INPUT_STATISTICS_H_
#define QUANTD_QUANTIZERS_INPUT_STATISTICS_H_

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"
#include "kernels/product_device.h"
#include "quantizers/scheme.h"

namespace quantd {

// Results depend on the rows and their order alone: not on how Add cuts them, nor on the number of
// threads, the instruction set or the device.
class InputStatistics {
 public:
  // `tokens` is the number of rows that all calls of Add will bring. The gram matrix is added up on
  // `device`, which outlives this, if there is one that has room for it.
  InputStatistics(int64_t cols, const InputNeeds& needs, int64_t tokens,
                  ProductDevice* device = nullptr);

  // The next rows [count, cols]. INVALID_ARGUMENT naming token and channel of a NaN or an infinity;
  // UNAVAILABLE when the device was lost.
  absl::Status Add(std::span<const float> rows);
  // The same for rows that are known to have none.
  absl::Status AddFinite(std::span<const float> rows);
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
  absl::Status AddGram(std::span<const float> rows);
  void AddGramHere(std::span<const float> rows);
  // Room for the gram matrix and a slice of rows on the device; no device where there is none.
  void ReserveOnDevice();
  void Mirror();

  const int64_t cols_;
  const InputNeeds needs_;
  const int64_t tokens_;
  int64_t seen_ = 0;
  std::vector<double> squares_, magnitudes_;  // sums
  std::vector<float> importance_, mean_magnitude_, minimum_, maximum_, gram_, samples_;
  std::vector<float> least_, greatest_;  // of the sequences so far, the one that goes on last
  bool within_sequence_ = false;
  ProductDevice* device_;                       // of the gram matrix; null: the CPU
  std::unique_ptr<DeviceMatrix> sums_, slice_;  // on the device
  std::vector<float> pending_;  // rows that wait for a full slice of the gram matrix
};

// The statistics of `inputs`, a float tensor [..., cols]: one sequence, or with three dimensions
// and more as many as the first ones say. INVALID_ARGUMENT for another dtype or shape, for no rows
// at all, and for what Add and Finish refuse.
absl::StatusOr<InputStatistics> StatisticsOf(const TensorView& inputs, int64_t cols,
                                             const InputNeeds& needs);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_INPUT_STATISTICS_H_

// What AWQ keeps of the values that linears read, from one run of the block per sequence: of all
// tokens what the searches for factors need, of some tokens the values themselves, for those for
// clips.
#ifndef QUANTD_QUANTIZERS_METHODS_AWQ_INPUTS_H_
#define QUANTD_QUANTIZERS_METHODS_AWQ_INPUTS_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/calibrated_block.h"
#include "quantizers/input_statistics.h"
#include "quantizers/sequence_store.h"

namespace quantd {

// To nearest float16, ties to even. In parallel.
void RoundToHalf(std::span<float> values);

// Of the linears that read at one place of a block: X [tokens, cols], float16 values, `tokens` of
// all sequences.
class AwqGroupInputs {
 public:
  struct Shape {
    BlockValue from;
    int64_t cols;
  };
  AwqGroupInputs(const Shape& shape, const BlockInputs& inputs, ProductDevice* device);

  // A sequence's. INTERNAL and such from a store or a device.
  absl::Status Add(const FloatBuffer& values);
  absl::Status Finish();

  // Of every column: mean |x|.
  const std::vector<float>& mean_magnitude() const { return mean_magnitude_; }
  // False: values are beyond float16, nothing else holds.
  bool is_finite() const { return is_finite_; }
  // Of groups whose outputs are one product X W^T, losses need X^T X [cols, cols] alone: |X D^T|^2
  // is the sum over D's rows of d X^T X d^T. Cheaper as soon as there are more tokens than columns.
  // Empty for others; they need
  std::span<const float> gram() const;
  // the values of every sequence.
  SequenceStore& sequences() { return sequences_; }

 private:
  int64_t tokens_ = 0;
  bool by_gram_;
  std::vector<double> sums_;
  std::vector<float> mean_magnitude_;
  InputStatistics statistics_;
  SequenceStore sequences_;
  bool is_finite_ = true;
};

// Some 512 tokens of all sequences in equal steps, float16 values [tokens, cols], by the place that
// linears read.
using AwqSamples = std::array<std::vector<float>, kBlockValues>;

struct AwqInputs {
  AwqSamples samples;
  std::vector<AwqGroupInputs> groups;  // as asked for
};
// `with_samples`: also of what is in no group. CANCELLED when `control` says stop.
absl::StatusOr<AwqInputs> CollectAwqInputs(CalibratedBlock& block, const BlockInputs& inputs,
                                           std::span<const AwqGroupInputs::Shape> groups,
                                           bool with_samples, SolverControl& control);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_AWQ_INPUTS_H_

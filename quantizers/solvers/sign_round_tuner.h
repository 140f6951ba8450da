// The trainable rounding of one matrix: an offset for every weight and two factors for every
// group's range, moved by the sign of the gradient (SignRound, arXiv 2309.05516; auto-round 0.16.1,
// wrapper.py, algorithms/quantization/sign_round).
#ifndef QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_TUNER_H_
#define QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_TUNER_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/float_buffer.h"
#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/solvers/sign_round.h"

namespace quantd {

class SignRoundTuner {
 public:
  // `weight` [rows, cols], copied.
  SignRoundTuner(std::span<const float> weight, int64_t rows, int64_t cols,
                 const SignRoundSpec& spec);

  // The matrix as it is rounded now, [rows, cols].
  void Round(std::span<float> out) const;
  // One step against `gradient`, d loss / d rounded matrix, by rates that are positive; without
  // `range_rate` (0) the ranges stay. Rounding passes gradients through. `out` gets the matrix as it
  // is rounded after the step.
  void Step(std::span<const float> gradient, float rate, float range_rate, std::span<float> out);

  // Remembers what is trained as the best so far.
  void Keep();
  // The matrix rounded with what was kept last; before any Keep, plainly.
  absl::StatusOr<QuantizedTensor> Best() const;

 private:
  struct Group {
    float scale;
    float zero;
    float sign;       // of a symmetric scale
    bool is_bounded;  // the scale is the least one, whatever the range
  };
  // Factors' gradients from those of scale and zero point.
  struct RangeGradient {
    float min = 0;
    float max = 0;
  };

  Group GroupAt(int64_t index) const;
  RangeGradient GradientOf(int64_t index, const Group& group, double by_scale,
                           double by_zero) const;
  void RoundGroup(int64_t index, std::span<float> out) const;
  void StepGroup(int64_t index, std::span<const float> gradient, float rate, float range_rate);
  // Of a group's weights in the matrix.
  int64_t BeginOf(int64_t index) const {
    return index / groups_ * cols_ + index % groups_ * group_size_;
  }
  int64_t SizeOf(int64_t index) const {
    return std::min(group_size_, cols_ - index % groups_ * group_size_);
  }

  TensorView Weight() const;

  const SignRoundSpec spec_;
  int64_t rows_, cols_, group_size_, groups_;  // groups of a row
  FloatBuffer values_;                         // the weight
  std::vector<float> least_, most_;            // of each group, with 0 between them
  FloatBuffer rounding_, best_rounding_;
  std::vector<float> min_scale_, max_scale_, best_min_scale_, best_max_scale_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_TUNER_H_

// Activation-aware weight quantization (Lin et al., "AWQ", arXiv 2306.00978) as autoawq 0.2.9 does
// it (quantize/quantizer.py): rounding in groups, a search for the largest magnitude of every
// group, and a search for factors that move the difficulty of columns into the inputs. All
// arithmetic is float16's, operation by operation; sums accumulate in float32.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_H_
#define QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_H_

#include <functional>
#include <span>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct AwqSpec {
  int bits = 4;
  int64_t group_size = 128;  // divides the columns; -1: whole rows
  bool zero_point = true;    // else symmetric

  int64_t GroupOf(int64_t cols) const { return group_size <= 0 ? cols : group_size; }
};

// A matrix [rows, cols] of float16 values, widened.
struct HalfMatrix {
  int64_t rows = 0;
  int64_t cols = 0;
  std::vector<float> values;

  const float* row(int64_t r) const { return values.data() + r * cols; }
};

// `tensor` [rows, cols] rounded to float16. INVALID_ARGUMENT for values beyond it.
absl::StatusOr<HalfMatrix> ToHalfMatrix(const TensorView& tensor);

// pseudo_quantize_tensor: unsigned codes and integer zero points; signed codes without zero points
// when symmetric. Scales are float16, and what is dequantized too. Groups without zero between
// their ends saturate, as upstream's. INVALID_ARGUMENT when a range is beyond float16.
absl::StatusOr<QuantizedTensor> QuantizeAwq(const HalfMatrix& weight, const AwqSpec& spec);

// _compute_best_clip: the magnitude that each group, in the order of QuantizedTensor::block_of, is
// best clipped to, judged by the inputs `samples` [tokens, cols], float16 values. CANCELLED when
// `stopped` says so.
absl::StatusOr<std::vector<float>> SearchClip(const HalfMatrix& weight, const AwqSpec& spec,
                                              std::span<const float> samples,
                                              const std::function<bool()>& stopped);
// Weights of each group clamped to [-limit, limit].
void ApplyClip(const AwqSpec& spec, std::span<const float> limits, HalfMatrix* weight);

// --- The parts of the search for column factors. ---

constexpr int kAwqRatios = 20;  // tried: 0, 0.05, ..., 0.95

// Per column, how large weights are within their groups on average, over all `weights` that read
// the same inputs: [cols].
std::vector<float> AwqColumnMagnitude(std::span<const HalfMatrix* const> weights,
                                      const AwqSpec& spec);
// Factors of try number `step`, from the mean |x| of every column and AwqColumnMagnitude.
std::vector<float> AwqFactors(std::span<const float> mean_magnitude,
                              std::span<const float> column_magnitude, int step, bool duo_scaling);
// Q(W * s) / s.
HalfMatrix QuantizedWithFactors(const HalfMatrix& weight, const AwqSpec& spec,
                                std::span<const float> factors);
// Columns multiplied by `factors`.
void ScaleColumns(std::span<const float> factors, HalfMatrix* weight);

// The whole search for one matrix and its inputs `samples` [tokens, cols]: the factors whose
// rounded product X (Q(W s) / s)^T is nearest to X W^T.
absl::StatusOr<std::vector<float>> SearchFactors(const HalfMatrix& weight, const AwqSpec& spec,
                                                 std::span<const float> samples, bool duo_scaling);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_AWARE_H_

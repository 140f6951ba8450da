// Half-quadratic quantization: scales from the range, zero points by a proximal iteration that
// tolerates outliers (Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning
// Models", 2023; hqq 0.2.8, core/quantize.py and core/optimize.py,
// optimize_weights_proximal_legacy).
#ifndef QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_H_
#define QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

struct HalfQuadraticSpec {
  int bits = 4;             // width of a code
  int max_code = 15;        // codes are 0..max_code
  int64_t group_size = 64;  // elements that share a scale; it divides the matrix
  // 1: a group is `group_size` neighbours of the flattened matrix. 0: the flattened matrix is cut
  // into `group_size` equal runs, and a group holds one element of each.
  int axis = 1;
  bool round_zero = true;  // of the zero points that the iteration starts from
  bool optimize = true;    // false: round to nearest with the scales and zeros of the range
};

// Computes in float32, as upstream does on CPUs (on GPUs it iterates in float16), sums in torch's
// order, and rounds scales and zero points to the dtype of `weight` at the end; dequantizes to that
// dtype. Where upstream would write infinities, which only ranges near a dtype's limits give,
// scales and zero points are the largest finite numbers. CANCELLED when stopped.
absl::StatusOr<QuantizedTensor> QuantizeHalfQuadratic(const TensorView& weight,
                                                      const HalfQuadraticSpec& spec,
                                                      const StopRequest& stopped = {});

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_H_

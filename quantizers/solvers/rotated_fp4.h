// Runs of a row are multiplied by a matrix, which spreads what stands out over its neighbours, and
// rounded to FP4 in blocks (FP-Quant, arXiv 2509.23202; fp_quant 0.3.2, forward_pseudoquantize, and
// QuTLASS, fusedQuantizeMx and fusedQuantizeNv).
#ifndef QUANTD_QUANTIZERS_SOLVERS_ROTATED_FP4_H_
#define QUANTD_QUANTIZERS_SOLVERS_ROTATED_FP4_H_

#include <span>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

struct RotatedFp4Spec {
  Fp4Blocks blocks;
  std::span<const float> rotation;  // [size, size], or empty: values stay as they are
  int64_t size = 0;                 // of runs; a multiple of the blocks', divides the columns
};

// Sums and scales in float32; upstream's matrix products add in an order of their own, which can
// move a value that is within the last bits of the middle between two codes. Dequantizes the
// rotated matrix in float32; `input` has the rotation and no rounding. Runs that overflow float32
// when rotated are cut at its largest number.
absl::StatusOr<QuantizedTensor> QuantizeRotatedFp4(const TensorView& weight,
                                                   const RotatedFp4Spec& spec,
                                                   const StopRequest& stopped = {});

// What fp_quant rotates by, [size, size] rounded to `dtype`: "hadamard" (Sylvester's matrix over
// sqrt(size)) or "gsr" (its columns by their number of changes of sign); empty for "identity".
// `size` is a power of two.
std::vector<float> FpQuantRotation(const std::string& transform, int64_t size, DType dtype);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ROTATED_FP4_H_

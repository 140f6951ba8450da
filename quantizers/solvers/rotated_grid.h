// Blocks of a row are rotated by a Hadamard matrix, which makes their values nearly normal, and
// replaced by the nearest points of a grid made for normal values (HIGGS; Transformers 5.23,
// integrations/higgs.py, quantize_with_higgs).
#ifndef QUANTD_QUANTIZERS_SOLVERS_ROTATED_GRID_H_
#define QUANTD_QUANTIZERS_SOLVERS_ROTATED_GRID_H_

#include <span>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

struct RotatedGridSpec {
  std::span<const float> grid;  // points of `dimensions` coordinates, in the order of codes
  int dimensions = 1;           // 1 or 2
  int64_t hadamard_size = 512;  // columns that are rotated together; divides the columns
  int64_t group_size = 256;     // columns that a stored scale is for; divides hadamard_size
};

// Norms and distances in float32 as torch computes them; scales and grid are rounded to the dtype
// of `weight`, to which the rotated matrix dequantizes. Blocks of zeros have scale 0 and code 0.
// The result has a table (1 dimension) or a codebook (2), and `input.hadamard_size`.
absl::StatusOr<QuantizedTensor> QuantizeRotatedGrid(const TensorView& weight,
                                                    const RotatedGridSpec& spec,
                                                    const StopRequest& stopped = {});

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ROTATED_GRID_H_

// The two default optimizers of optimum-quanto 0.2.7 (tensor/optimizers, library/quantize.py).
// Every operation is rounded to the weight's dtype, as torch does, and so are scales and shifts.
#ifndef QUANTD_QUANTIZERS_SOLVERS_QUANTO_H_
#define QUANTD_QUANTIZERS_SOLVERS_QUANTO_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// AbsmaxOptimizer: rows divided by absmax / max, rounded half to even, clamped to the range of the
// codes. `codes` is kI8 or a float8 dtype, `max` its largest value (127 for kI8). A row of zeros
// gets code 0, also in float8, where upstream makes NaN of 0/0.
absl::StatusOr<QuantizedTensor> QuantizeQuantoRows(const TensorView& weight, DType codes,
                                                   float max);

// The columns that share a scale: 128, 96, 64 or 32, the first that divides, or 0 for whole rows,
// which also rows of up to 128 are (nn/qmodule.py).
int64_t QuantoGroupSize(int64_t cols);

// MaxOptimizer: 2- or 4-bit codes of (w - min) / scale with scale = (max - min) / (2^bits - 1);
// zero need not lie between them. In bfloat16, 4-bit groups of 128 pass through the mid-point form
// of TinyGemmWeightQBitsTensor, which rounds the shift twice. A matrix of one group gets one scale
// (upstream one per column).
absl::StatusOr<QuantizedTensor> QuantizeQuantoGroups(const TensorView& weight, int bits);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_QUANTO_H_

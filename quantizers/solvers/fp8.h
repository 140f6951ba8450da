// Round-to-nearest to float8_e4m3fn, the two ways of the FP8 methods of Transformers 5.23.
#ifndef QUANTD_QUANTIZERS_SOLVERS_FP8_H_
#define QUANTD_QUANTIZERS_SOLVERS_FP8_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// integrations/finegrained_fp8.py, Fp8Quantize: tiles are multiplied by 448 * (1 / absmax), and the
// stored scale is the reciprocal of that factor; with `power_of_two` the next power of two above
// it. Tiles of float weights whose reciprocal overflows take the largest factor instead of
// infinity.
absl::StatusOr<QuantizedTensor> QuantizeTilesFp8(const TensorView& weight, const BlockShape& tile,
                                                 bool power_of_two);

// fbgemm-gpu-genai 1.9, quantize_fp8_per_row: rows are divided by absmax / 448, which is at least
// 1 / (448 * 512). Dequantizes to bfloat16.
absl::StatusOr<QuantizedTensor> QuantizeRowsFp8(const TensorView& weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_FP8_H_

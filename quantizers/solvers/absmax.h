// Round-to-nearest on blocks scaled by their largest magnitude: the two solvers of bitsandbytes
// 0.50 (csrc/cpu_ops.cpp for 4 bits and for nested scales, backends/default/ops.py for LLM.int8)
// and that of EETQ.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ABSMAX_H_
#define QUANTD_QUANTIZERS_SOLVERS_ABSMAX_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/grids/four_bit.h"

namespace quantd {

struct FourBitSpec {
  const FourBitTable* table = nullptr;
  int64_t block_size = 64;    // elements of the flattened matrix
  bool double_quant = false;  // scales become 8-bit codes, 256 to a nested scale
};

// Codes, block scales and nested scales of `weight`; dequantizes to its dtype. All in float32.
absl::StatusOr<QuantizedTensor> QuantizeFourBit(const TensorView& weight, const FourBitSpec& spec);

// LLM.int8 (arXiv:2208.07339): the weight goes through float16, then each row becomes int8 codes
// around its absmax. Magnitudes beyond float16 saturate at 65504, where upstream makes infinite
// scales of them. Dequantizes to float32 as bitsandbytes does.
absl::StatusOr<QuantizedTensor> QuantizeRowsInt8(const TensorView& weight);

// EETQ's symmetric_quantize (465e9726, csrc/cutlass_kernels): rows divided in float32 by
// absmax / 128, rounded half away from zero, clamped to the full range of int8. The stored scale is
// that divisor rounded to the weight's dtype. Infinite weights count as the largest float16; a row
// of zeros gets code 0 (upstream leaves 0/0 undefined). Dequantizes to float32.
absl::StatusOr<QuantizedTensor> QuantizeRowsFullInt8(const TensorView& weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ABSMAX_H_

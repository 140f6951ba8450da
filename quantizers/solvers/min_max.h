// Round-to-nearest with scales from the smallest and largest element of each block, as
// compressed-tensors 0.20 does it without data (quantization/utils/helpers.py calculate_qparams,
// lifecycle/forward.py quantize; "memoryless_minmax"). Every operation is rounded to the weight's
// dtype, as torch does.
#ifndef QUANTD_QUANTIZERS_SOLVERS_MIN_MAX_H_
#define QUANTD_QUANTIZERS_SOLVERS_MIN_MAX_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct MinMaxSpec {
  // What the codes stand for.
  enum class Values { kInteger, kE2M1, kE2M3, kE4M3 };
  // kWeightDType: one scale a block in the weight's dtype. kPowerOfTwo: OCP Microscaling, an E8M0
  // exponent a block. kTwoLevel: NVFP4, an E4M3 scale a block under one float32 for the matrix.
  enum class Scales { kWeightDType, kPowerOfTwo, kTwoLevel };

  Values values = Values::kInteger;
  int bits = 8;           // kInteger: 1..8
  bool symmetric = true;  // kInteger with kWeightDType only: false adds zero points
  Scales scales = Scales::kWeightDType;
  BlockShape block;
};

// The matrix in the terms of `spec`. It dequantizes to the weight's dtype, or to bfloat16 with
// kPowerOfTwo and kTwoLevel as upstream does.
absl::StatusOr<QuantizedTensor> QuantizeMinMax(const TensorView& weight, const MinMaxSpec& spec);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_MIN_MAX_H_

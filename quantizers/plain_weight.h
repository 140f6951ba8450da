// A weight without its quantization.
#ifndef QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_
#define QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

#include "core/status.h"
#include "kernels/backend.h"

namespace quantd {

// The weight as a plain tensor of the float type `dtype`; quantized ones are dequantized row by
// row. Plain integer tensors stay as they are.
Tensor ToPlain(Weight weight, DType dtype);

// Whether a plain matrix can take the weight's place. UNIMPLEMENTED when its layer computes more
// than x W^T + bias: it normalizes its inputs or scales its bias (BitNet).
absl::Status CheckCanBePlain(absl::string_view name, const Weight& weight, bool has_bias);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

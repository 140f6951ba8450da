// A weight without its quantization.
#ifndef QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_
#define QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

#include "kernels/backend.h"

namespace quantd {

// The weight as a plain tensor of the float type `dtype`; quantized ones are dequantized row by
// row. Plain integer tensors stay as they are.
Tensor ToPlain(Weight weight, DType dtype);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

// Static scales of activations as Quark's export stores them: input_scale and, for integers,
// input_zero_point (amd-quark 0.13).
#ifndef QUANTD_QUANTIZERS_CODECS_QUARK_INPUTS_H_
#define QUANTD_QUANTIZERS_CODECS_QUARK_INPUTS_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/quark_config.h"

namespace quantd {

// The rounding of inputs that `spec` asks for. kNone where the file has no scale.
// INVALID_ARGUMENT for scales that are not one finite and positive number.
absl::StatusOr<InputRounding> DecodeQuarkInputs(const ModuleTensors& tensors,
                                                const QuarkSpec& spec);

// Adds the scale that inputs got to `weight`, as tensors for the codec to write and as rounding.
void SetQuarkInputScale(const QuarkSpec& spec, float scale, float zero_point, DType scale_dtype,
                        QuantizedTensor* weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUARK_INPUTS_H_

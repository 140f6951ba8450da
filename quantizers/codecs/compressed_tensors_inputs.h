// What compressed-tensors' input_activations do to the inputs of a linear, and the static scales of
// theirs that a checkpoint stores (compressed-tensors 0.20, quantization/lifecycle/forward.py).
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_INPUTS_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_INPUTS_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/compressed_tensors_config.h"

namespace quantd {

// Whether `args` can be given static scales: one for all inputs of 2 to 8 bits, or NVFP4's scale of
// scales. UNIMPLEMENTED naming key, found and expected below `where` for all that upstream has
// besides.
absl::Status CheckStaticInputs(const CtArgs& args, const std::string& where);

// The rounding of inputs that `args` ask for, with the scales of `tensors` where they are static.
// kNone where the scales are not there, and for what can be read but not applied (Microscaling
// inputs, static scales of groups). INVALID_ARGUMENT for scales that are not finite and positive.
absl::StatusOr<InputRounding> DecodeCtInputs(const ModuleTensors& tensors, const CtArgs& args);

// The rounding that `args` with scales found at run time ask for.
InputRounding DynamicCtInputs(const CtArgs& args);

// Adds to `weight` the static scale and zero point that `args` got of a calibration, as tensors for
// the codec to write and as rounding. For "local" ones `scale` is the scale of scales.
void SetCtInputScale(const CtArgs& args, float scale, float zero_point, DType scale_dtype,
                     QuantizedTensor* weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_INPUTS_H_

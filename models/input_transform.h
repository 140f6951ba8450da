// What a weight asks of its inputs, taken off it: done to the inputs where codes can then stay
// packed, else to the weight.
#ifndef QUANTD_MODELS_INPUT_TRANSFORM_H_
#define QUANTD_MODELS_INPUT_TRANSFORM_H_

#include "core/quantized_tensor.h"
#include "kernels/backend.h"

namespace quantd {

// The same matrix as a weight whose input needs no transform and that has no outliers: what
// Backend::Pack takes. A column permutation is undone in the codes where every block stays a block
// (one block per row, or blocks moved as a whole); otherwise, and for channel scales, rotations and
// outliers, the result is dense: [rows, cols] in `dequantized_dtype` for permutations, else F32.
// (Linear takes from the weight before what it can do to the inputs instead.)
Weight WithoutInputTransform(Weight weight);

// Takes rotation, channel scales and the order of groups off the weight, for inputs that are to be
// rotated, scaled and gathered instead: in fast compute, where codes stay packed, and where inputs
// are rounded after a rotation. Not where they are rounded after the others.
InputTransform TakeTransform(const PackOptions& options, Weight& weight);

// Whether inputs of both go through the same steps.
bool AreSame(const InputTransform& a, const InputTransform& b);

}  // namespace quantd

#endif  // QUANTD_MODELS_INPUT_TRANSFORM_H_

// A weight without its quantization.
#ifndef QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_
#define QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

#include "core/shared_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "kernels/backend.h"
#include "quantizers/model_source.h"
#include "quantizers/scheme.h"

namespace quantd {

// The weight as a plain tensor of the float type `dtype`; quantized ones are dequantized row by
// row, those that follow the dtype they are loaded in straight to it. Plain integer tensors stay as
// they are. Ends soon after `stopped` says so, here and below, with values that mean nothing.
Tensor ToPlain(Weight weight, DType dtype, const StopRequest& stopped = {});

// Whether a plain matrix can take the weight's place. UNIMPLEMENTED when its layer computes more
// than x W^T + bias: it normalizes its inputs or scales its bias (BitNet).
absl::Status CheckCanBePlain(absl::string_view name, const Weight& weight, bool has_bias);

// The parameter as a plain tensor of the float type `dtype`, or, where `scheme` converts it itself,
// of the type that it is stored in. Not copied where it lies in a file like that. UNIMPLEMENTED as
// CheckCanBePlain.
absl::StatusOr<SharedTensor> ReadPlain(const ModelSource& source, absl::string_view name,
                                       DType dtype, const Scheme* scheme,
                                       const StopRequest& stopped = {});

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_PLAIN_WEIGHT_H_

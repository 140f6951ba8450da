// How far a quantized matrix is from its source.
#ifndef QUANTD_QUANTIZERS_QUANTIZATION_ERROR_H_
#define QUANTD_QUANTIZERS_QUANTIZATION_ERROR_H_

#include <string>

#include "core/quantized_tensor.h"
#include "core/status.h"

namespace quantd {

// |W - Q(W)| / |W| (Frobenius norms) over at most 256 rows spread evenly; 0 for an all-zero matrix.
double RelativeError(const TensorView& weight, const QuantizedTensor& quantized);

// INVALID_ARGUMENT naming `name` and the position of the first NaN or infinity. With `dtype`: of
// the first that is one when it is rounded to that.
absl::Status CheckFinite(absl::string_view name, const TensorView& tensor);
absl::Status CheckFinite(absl::string_view name, const TensorView& tensor, DType dtype);
// Replaces them by zero; returns how many there were.
int64_t ZeroNonFinite(Tensor& tensor);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_QUANTIZATION_ERROR_H_

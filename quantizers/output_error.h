// How far a linear's outputs on real inputs are from those of its source.
#ifndef QUANTD_QUANTIZERS_OUTPUT_ERROR_H_
#define QUANTD_QUANTIZERS_OUTPUT_ERROR_H_

#include <span>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

// |X (W - Q(W))^T| / |X W^T| (Frobenius norms) for inputs X [tokens, cols]; 0 when the outputs are.
struct OutputErrors {
  double quantized = 0;
  // The same for the weights rounded to the nearest values of the grid with the scales that the
  // quantized matrix has, as a method without calibration would; -1 where the grid is no list of
  // single values or the inputs are transformed.
  double rounded = -1;
};
// Goes through the matrix by slices of rows; CANCELLED soon after `stopped`.
absl::StatusOr<OutputErrors> OutputErrorsOf(const TensorView& weight,
                                            const QuantizedTensor& quantized,
                                            std::span<const float> inputs,
                                            const StopRequest& stopped = {});
// The first of them alone.
absl::StatusOr<double> OutputError(const TensorView& weight, const QuantizedTensor& quantized,
                                   std::span<const float> inputs, const StopRequest& stopped = {});

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_OUTPUT_ERROR_H_

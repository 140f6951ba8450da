// What solvers that minimize the error of a layer's outputs take from the calibration. Private to
// the methods.
#ifndef QUANTD_QUANTIZERS_METHODS_CALIBRATED_GRAM_H_
#define QUANTD_QUANTIZERS_METHODS_CALIBRATED_GRAM_H_

#include <string>
#include <vector>

#include "quantizers/scheme.h"

namespace quantd {

// The mean of x x^T over the calibration tokens, [cols, cols]. The identity, with a warning, when
// no token reaches the layer. INVALID_ARGUMENT when there was no calibration.
absl::StatusOr<std::vector<float>> MeanGram(const InputStats* stats, int64_t cols,
                                            absl::string_view method);

// A matrix widened to float.
std::vector<float> FloatsOf(const TensorView& weight);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_CALIBRATED_GRAM_H_

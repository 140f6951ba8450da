// What a static scale of activations is found of: the range of a linear's inputs over a
// calibration set, as the observers of llm-compressor 0.14 (observers/min_max.py) and AMD Quark
// 0.13 (quantization/observer/observer.py, PerTensorMinMaxObserver) keep it.
#ifndef QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_RANGE_H_
#define QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_RANGE_H_

#include "core/dtype.h"
#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/scheme.h"

namespace quantd {

struct RangeObserver {
  enum class Kind {
    kAverage,  // "minmax": extremes of sequences, averaged as they come, the first one whole
    kAll,      // "static_minmax", PerTensorMinMaxObserver: the extremes of all
    kLast,     // "memoryless_minmax": those of the last sequence
  };
  Kind kind = Kind::kAverage;
  double averaging_constant = 0.01;  // kAverage: weight of a new sequence; 1 is kLast
};

// The range as a matrix [1, 2] of the least and the greatest input in `dtype`, in which upstream
// observes and averages them. Rounding it to nearest with one scale gives the scale and the zero
// point that the activations get, as upstream computes both alike. INVALID_ARGUMENT where `stats`
// holds no extremes (InputNeeds::extremes).
absl::StatusOr<Tensor> ObservedRange(const InputStats* stats, const RangeObserver& observer,
                                     DType dtype);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ACTIVATION_RANGE_H_

// A model whose plain weights have no NaN and no infinity.
#ifndef QUANTD_QUANTIZERS_FINITE_SOURCE_H_
#define QUANTD_QUANTIZERS_FINITE_SOURCE_H_

#include <memory>

#include "quantizers/model_source.h"

namespace quantd {

// `source` with 0 where plain floating point tensors hold such values: what a job with
// OutputOptions::zero_nonfinite calibrates on. Quantized tensors are finite as codecs read them.
std::unique_ptr<ModelSource> WithZerosForNonFinite(std::unique_ptr<ModelSource> source);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_FINITE_SOURCE_H_

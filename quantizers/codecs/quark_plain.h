// Layers that Quark only converts to bfloat16 or float16: stored as they are, beside a scale that
// means nothing (amd-quark 0.13).
#ifndef QUANTD_QUANTIZERS_CODECS_QUARK_PLAIN_H_
#define QUANTD_QUANTIZERS_CODECS_QUARK_PLAIN_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/quark_config.h"

namespace quantd {

// The 65536 values of bfloat16 or float16 as a codebook in the order of their bits; infinities and
// NaN, which no weight may have, stand as zero.
Grid QuarkPlainGrid(DType dtype);

// A finite float matrix as codes of that grid; numbers beyond its range saturate.
QuantizedTensor QuarkPlain(const TensorView& weight, DType dtype);

// The codes of `out`, whose shape is set. INVALID_ARGUMENT for values that are not finite.
absl::Status DecodeQuarkPlain(const ModuleTensors& tensors, const QuarkSpec& spec,
                              QuantizedTensor* out);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUARK_PLAIN_H_

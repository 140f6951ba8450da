// Ternary weights by their mean magnitude (BitNet b1.58, arXiv:2402.17764).
#ifndef QUANTD_QUANTIZERS_SOLVERS_ABSMEAN_H_
#define QUANTD_QUANTIZERS_SOLVERS_ABSMEAN_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

// max(mean |w|, 1e-5) in float32, summed as torch sums; in double where that overflows, which only
// weights near float32's limits do.
absl::StatusOr<float> AbsMeanOf(const TensorView& weight);

// WeightQuant of Transformers 5.23 (integrations/bitnet.py), all in float32: codes are
// round(w * s) + 1 clamped to 0..2, half to even, with s = 1 / absmean. The one scale of the matrix
// is 1 / s. Dequantizes to float32; upstream then rounds to the dtype that it computes in.
absl::StatusOr<QuantizedTensor> QuantizeTernary(const TensorView& weight, float absmean);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_ABSMEAN_H_

// Round-to-nearest as torchao 0.18 does it: scales from the smallest and largest weight of a block
// (quantization/quant_primitives.py, choose_qparams_affine and quantize_affine), tinygemm-like
// int4 groups (fbgemm-gpu-genai 1.9, int4_row_quantize_zp), and float8 (_choose_scale_float8).
#ifndef QUANTD_QUANTIZERS_SOLVERS_AFFINE_H_
#define QUANTD_QUANTIZERS_SOLVERS_AFFINE_H_

#include <optional>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

// kSymmetric: absmax over half the range of codes. kSymmetricNoClipping: the larger scale of the
// negative and the positive side. kAsymmetric: the range over all codes, with a zero point.
enum class AffineMapping { kSymmetric, kSymmetricNoClipping, kAsymmetric };

struct AffineSpec {
  int bits = 8;             // of the grid, signed
  bool half_range = false;  // use the middle half of the codes only
  AffineMapping mapping = AffineMapping::kSymmetric;
  BlockShape block;
  // As stored, and what codes are found with; unset: the weight's. Scales themselves are computed
  // in the weight's dtype.
  std::optional<DType> scale_dtype;
  float min_scale = 0;  // 0: the smallest normal number of the weight's dtype
  // Scales refined by the half-quadratic steps of _choose_qparams_and_quantize_scale_only_hqq
  // instead, for groups of columns; the mapping does not matter.
  bool hqq_scales = false;
};

// Dequantizes to the weight's dtype. Scales that upstream rounds to infinity become the largest
// finite number, those that a narrower scale_dtype rounds to zero its smallest normal one.
absl::StatusOr<QuantizedTensor> QuantizeAffine(const TensorView& weight, const AffineSpec& spec,
                                               const StopRequest& stopped = {});

// Signed 4-bit codes in groups of `group_size` columns: scale (max - min) / 15, offset
// min + 8 * scale, both float32 until they are stored in the weight's dtype. Dequantizes to
// float32.
absl::StatusOr<QuantizedTensor> QuantizeInt4Groups(const TensorView& weight, int64_t group_size);

// float8_e4m3fn or float8_e5m2 with float32 scales absmax / largest, rounded to the weight's dtype.
// An all-zero block keeps upstream's scale of zero, but has codes of zero where upstream has NaN.
absl::StatusOr<QuantizedTensor> QuantizeFloat8(const TensorView& weight, const BlockShape& block,
                                               DType float_dtype);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_AFFINE_H_

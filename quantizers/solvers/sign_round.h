// Full-range integers with fp16 scales as auto-round 0.16.1 quantizes (data_type/int.py): plain
// rounding, rounding with tuned offsets and ranges (SignRound, arXiv 2309.05516), and scales found
// by search.
#ifndef QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_H_
#define QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_H_

#include <span>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct SignRoundSpec {
  int bits = 4;
  int64_t group_size = 128;  // columns; -1: whole rows. The last group of a row may be shorter
  // One zero point in the middle, scales of either sign, so that the larger side of a group takes
  // the code that the other side lacks; else positive scales and a zero point for every group.
  bool sym = true;
};

// What training finds; groups in the order of QuantizedTensor::block_of.
struct SignRoundTuning {
  std::span<const float> rounding;   // [rows, cols], added to w / scale before it is rounded
  std::span<const float> min_scale;  // one per group, factor of the negative side, 0 to 1
  std::span<const float> max_scale;  // one per group, factor of the positive side
};

// quant_tensor_rtn_sym, quant_tensor_sym and quant_tensor_asym, followed by what the packers do:
// codes are found once more from the rounded weight. Arithmetic in the weight's dtype, or in
// float32 where torch promotes. `tuning` may be null. Codes are unsigned, zero points integers;
// dequantizes to float16. INVALID_ARGUMENT when a scale is beyond float16.
absl::StatusOr<QuantizedTensor> QuantizeSignRound(const TensorView& weight,
                                                  const SignRoundSpec& spec,
                                                  const SignRoundTuning* tuning);

// quant_tensor_opt_rtn_sym: the scale of some 200 around the usual one with the least squared
// error, weighted by `importance` [cols] where it is not empty.
absl::StatusOr<QuantizedTensor> QuantizeSearchedRound(const TensorView& weight,
                                                      const SignRoundSpec& spec,
                                                      std::span<const float> importance);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_H_

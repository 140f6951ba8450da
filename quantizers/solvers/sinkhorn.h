// SINQ (Mueller et al. 2025, arXiv 2509.22944; sinq 0.2.0, sinkhorn.py, dual_shift.py and
// quantizer.py): columns and rows are scaled until their deviations are alike, then groups of
// columns are rounded to the range of each. Data-free.
#ifndef QUANTD_QUANTIZERS_SOLVERS_SINKHORN_H_
#define QUANTD_QUANTIZERS_SOLVERS_SINKHORN_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"

namespace quantd {

struct SinqSpec {
  int bits = 4;  // 1 to 8
  int64_t group_size = 64;

  // Columns of a group where there are `cols`: upstream halves the size until it divides them; 0
  // when it gets below 16.
  int64_t Tile(int64_t cols) const;
};

// Rows of the table in which scales are stored: block b is its row b / (blocks / 32).
constexpr int64_t kSinqScaleRows = 32;

// INVALID_ARGUMENT unless groups fill the rows, scales their 32 rows, and columns have a deviation.
absl::Status CheckSinqShape(const SinqSpec& spec, int64_t rows, int64_t cols);

// Codes with a scale and a zero point for every group and a scale for every column. Upstream works
// on float16 values whatever the weight's dtype, in float32, and stores float16; deviations are
// sums in double, logarithms and exponentials rounded correctly. Torch's come from MKL, whose last
// bit depends on the machine (1 in 100 is not the nearest); where that decides between two codes,
// zero points or rounds, ours may be the other. What upstream makes infinite is the largest
// float16. Scales and zero points are codes of 8 bits: `nested` holds scale_codes and offset_codes
// by block; super_scale and super_offset [blocks / 32] for the columns of the table of scales; and
// in scale_zero[0] and offset_zero[0] scale and offset of all codes of zero points. Rounds each
// step in float16 when the weight is float16. INVALID_ARGUMENT for zero points beyond float16,
// CANCELLED when stopped.
absl::StatusOr<QuantizedTensor> QuantizeSinq(const TensorView& weight, const SinqSpec& spec,
                                             const StopRequest& stopped = {});

// Fills `scale` and `zero_point` from `nested`: code * step + offset, each rounded to float16.
void FillSinqScales(QuantizedTensor* tensor);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SINKHORN_H_

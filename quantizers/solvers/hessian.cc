#include "quantizers/solvers/hessian.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/linear_algebra/triangular.h"

namespace quantd {

absl::StatusOr<OrderedHessian> OrderHessian(std::span<const float> hessian, int64_t cols,
                                            bool act_order, double damping,
                                            const StopRequest& stopped) {
  OrderedHessian out;
  out.order.resize(cols);
  std::iota(out.order.begin(), out.order.end(), 0);
  const auto diagonal = [&](int64_t column) { return hessian[column * cols + column]; };
  if (act_order) {
    std::stable_sort(out.order.begin(), out.order.end(),
                     [&](int32_t a, int32_t b) { return diagonal(a) > diagonal(b); });
  }
  out.factor.resize(cols * cols);
  out.dead.resize(cols);
  RETURN_IF_ERROR(ParallelForUnlessStopped(cols, stopped, [&](int64_t row) {
    for (int64_t col = 0; col < cols; ++col) {
      out.factor[row * cols + col] = hessian[int64_t{out.order[row]} * cols + out.order[col]];
    }
  }));
  double mean = 0;
  for (int64_t c = 0; c < cols; ++c) {
    float& value = out.factor[c * cols + c];
    out.dead[c] = value == 0;
    if (out.dead[c]) value = 1;
    mean += std::abs(value) / static_cast<double>(cols);
  }
  for (int64_t c = 0; c < cols; ++c) {
    out.factor[c * cols + c] += static_cast<float>(damping * mean);
  }
  const int64_t pivots = UpperFactorOfInverse(out.factor.data(), cols, stopped);
  if (pivots == cols) return out;
  if (pivots == kStopped) return absl::CancelledError("the operation was cancelled");
  return absl::FailedPreconditionError(absl::StrCat(
      "the inputs of the calibration text say too little of ", cols - pivots, " of ", cols,
      " columns; raise percdamp above ", damping, " or calibrate with more text"));
}

}  // namespace quantd

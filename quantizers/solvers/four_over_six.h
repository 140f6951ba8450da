// Four Over Six (Cook et al. 2025, arXiv 2512.02010; fouroversix 1.0.5, quantize/pytorch/
// reference.py): FP4 blocks whose largest value becomes 4 or 6, whichever the rule finds closer.
#ifndef QUANTD_QUANTIZERS_SOLVERS_FOUR_OVER_SIX_H_
#define QUANTD_QUANTIZERS_SOLVERS_FOUR_OVER_SIX_H_

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

struct FourOverSixSpec {
  enum class Rule { kMse, kMae, kAbsMax, kStatic4, kStatic6 };
  Rule rule = Rule::kMse;
  bool is_mx = false;   // MXFP4: blocks of 32, scales are powers of two; static rules only
  bool square = false;  // 16 (32) rows share the scale too

  bool is_static() const { return rule == Rule::kStatic4 || rule == Rule::kStatic6; }
  int64_t block() const { return is_mx ? 32 : 16; }
  // The value that the largest magnitude of a matrix stands for in E2M1 times E4M3.
  float full_scale() const;
};

// E2M1 codes and one scale for every 16 (32) columns; columns and, for square blocks, rows past the
// matrix count as zeros. `absmax` gets the largest magnitude, by which NVFP4 scales are relative;
// post_scale is absmax / full_scale. Upstream computes in float32, as here.
absl::StatusOr<QuantizedTensor> QuantizeFourOverSix(const TensorView& weight,
                                                    const FourOverSixSpec& spec, float* absmax,
                                                    const StopRequest& stopped = {});

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_FOUR_OVER_SIX_H_

// Scale and zero point of a group of weights, as GPTQ and its kin choose them (gptqmodel 7.7,
// quantization/quantizer.py, Quantizer.find_params).
#ifndef QUANTD_QUANTIZERS_SOLVERS_GPTQ_GRID_H_
#define QUANTD_QUANTIZERS_SOLVERS_GPTQ_GRID_H_

#include <algorithm>
#include <cstdint>

#include "quantizers/solvers/rounding.h"

namespace quantd {

struct GptqGrid {
  float scale = 1;
  float zero = 0;  // a whole number of codes

  float CodeOf(float weight, float most) const {
    // Beyond the range of RoundHalfEven nothing is left to round. Written so that a NaN, which
    // weights near the end of float32 lead to, gives a code too.
    const float steps = weight / scale;
    const float within = steps > -65536.0f ? std::min(steps, 65536.0f) : -65536.0f;
    return std::clamp(RoundHalfEven(within) + zero, 0.0f, most);
  }
  float ValueOf(float code) const { return scale * (code - zero); }
};

// The grid of `count` weights. The range always holds zero. `mse` above 0: of 80 ranges, shrunk by
// a hundredth each, the one with the least sum of |error|^mse; asymmetric grids of 2 bits also try
// the other whole zero point next to the exact one.
GptqGrid FindGptqGrid(const float* weights, int64_t count, int bits, bool sym, double mse);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_GPTQ_GRID_H_

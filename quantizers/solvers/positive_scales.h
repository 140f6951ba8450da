// The common scale of a few nonnegative numbers, by coordinate descent on weighted squared error.
// Source: make_qp_quants in ggml-quants.c of ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_SOLVERS_POSITIVE_SCALES_H_
#define QUANTD_QUANTIZERS_SOLVERS_POSITIVE_SCALES_H_

#include <bit>
#include <cstdint>

namespace quantd {

// Half to even for |v| < 2^22; for other values what upstream's addition of 1.5 * 2^23 gives.
inline int NearestEvenInt(float v) {
  return (std::bit_cast<int32_t>(v + 12582912.f) & 0x7fffff) - 0x400000;
}

// Codes 0..max_code of x[0..count) and the scale they stand for.
float FitPositiveScales(int count, int max_code, const float* x, const float* weights,
                        uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_POSITIVE_SCALES_H_

// Scale, shifts and lattice points of a block whose elements are scale * (trit + shift), with trits
// -1, 0, 1 and shifts of either sign. Source: quantize_row_iq1_s_impl and quantize_row_iq1_m_impl
// in ggml-quants.c of ggml 0.25.3; results are bit-exact to them.
#ifndef QUANTD_QUANTIZERS_SOLVERS_TERNARY_SEARCH_H_
#define QUANTD_QUANTIZERS_SOLVERS_TERNARY_SEARCH_H_

#include "quantizers/solvers/lattice.h"

namespace quantd {

inline constexpr float kTernaryShift = 0.125f;

// Values of the trits 0, 1, 2 under a negative or a positive shift.
const float* ShiftedTrits(bool negative);

struct TernaryBlock {
  float scale = 0;                    // never negative
  bool negative[2] = {false, false};  // the shifts of the block's halves
};

// The best split of the sorted elements into three runs, tried for all pairs of borders and shifts,
// then moved to lattice points of groups of eight. codes[i] = trit | negative shift << 2. Blocks
// without an element of `tiny` get scale 0, the first point and positive shifts.
//
// 32 elements with one shift.
TernaryBlock SearchTernary32(const Lattice& lattice, float tiny, const float* x,
                             const float* weights, uint8_t* codes);
// 16 elements with a shift for each half.
TernaryBlock SearchTernary16(const Lattice& lattice, float tiny, const float* x,
                             const float* weights, uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_TERNARY_SEARCH_H_

// Scale and lattice points of a block whose elements are sign * scale * (2 * level + 1). Source:
// quantize_row_iq2_xxs_impl, iq2_xs, iq2_s, iq3_xxs and iq3_s in ggml-quants.c of ggml 0.25.3;
// results are bit-exact to them.
#ifndef QUANTD_QUANTIZERS_SOLVERS_LATTICE_SEARCH_H_
#define QUANTD_QUANTIZERS_SOLVERS_LATTICE_SEARCH_H_

#include "quantizers/solvers/lattice.h"

namespace quantd {

struct LatticeSearch {
  // Which groups are chosen once more with the scale found.
  enum class Refit {
    kMoved,          // those whose nearest levels were no point
    kAllIfAnyMoved,  // all, if there is such a group or no trial helped
    kAll,
  };
  const Lattice* lattice;
  int block;   // elements that share a scale, 16 or 32
  int trials;  // scales tried on either side of the plain one
  float step;  // between two of them, in units of half a level
  float tiny;  // blocks without a larger element get scale 0
  Refit refit;
  bool even_signs;    // eight elements have an even number of minus signs
  bool fitted_range;  // the largest level is for the fit of FitPositiveScales, not for the maximum
};

// codes[i] = level | negative << lattice.bits() of the `block` elements of x; the scale, never
// negative. Blocks of tiny elements get scale 0 and the lattice's first point.
float SearchLattice(const LatticeSearch& search, const float* x, const float* weights,
                    uint8_t* codes);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_LATTICE_SEARCH_H_

// Grids that minimize the mean squared error of normally distributed values (Malinovskii et al.,
// "Pushing the Limits of Large Language Model Quantization via the Linearity Theorem", 2024). The
// numbers are those of Transformers 5.23, integrations/higgs.py.
#ifndef QUANTD_QUANTIZERS_GRIDS_HIGGS_H_
#define QUANTD_QUANTIZERS_GRIDS_HIGGS_H_

#include <span>

namespace quantd {

// 2^(bits * p) points of `p` coordinates each, in the order of codes; bits 2, 3, 4 and p 1, 2.
// Empty for other numbers.
std::span<const float> HiggsGrid(int bits, int p);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_GRIDS_HIGGS_H_

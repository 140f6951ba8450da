// The tables of bitsandbytes: NF4 (QLoRA, arXiv:2305.14314), FP4 and the signed dynamic 8-bit map
// (arXiv:2110.02861), as bitsandbytes 0.50 holds them.
#ifndef QUANTD_QUANTIZERS_GRIDS_FOUR_BIT_H_
#define QUANTD_QUANTIZERS_GRIDS_FOUR_BIT_H_

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

// 16 values in code order and what nearest-value rounding over [-1, 1] needs: the rank of a value
// is the number of midpoints strictly below it, and ranks ascend by value.
struct FourBitTable {
  std::array<float, 16> values;
  std::array<float, 15> midpoints;
  std::array<uint8_t, 16> code_of_rank;
};

const FourBitTable& Nf4Table();
const FourBitTable& Fp4Table();

// The 256 values of the signed dynamic map, ascending from -0.99297 to 1.
const std::vector<float>& SignedDynamicMap();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_GRIDS_FOUR_BIT_H_

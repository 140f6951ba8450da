#include "quantizers/grids/small_floats.h"

#include <cmath>

namespace quantd {
namespace {

Grid SignedGrid(int mantissa_bits) {
  const int magnitudes = 4 << mantissa_bits;  // two exponent bits
  std::vector<float> table(static_cast<size_t>(2 * magnitudes));
  for (int code = 0; code < magnitudes; ++code) {
    const int exponent = code >> mantissa_bits;
    const int mantissa = code & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa | (1 << mantissa_bits);
    const float value = std::ldexp(static_cast<float>(significand),
                                   (exponent == 0 ? 0 : exponent - 1) - mantissa_bits);
    table[code] = value;
    table[code + magnitudes] = -value;
  }
  return TableGrid(mantissa_bits + 3, std::move(table));
}

}  // namespace

Grid E2M1Grid() { return SignedGrid(1); }
Grid E2M3Grid() { return SignedGrid(3); }

}  // namespace quantd

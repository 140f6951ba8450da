#include "quantizers/grids/small_floats.h"

#include <cmath>

#include "core/float_types.h"

namespace quantd {
namespace {

Grid SignedGrid(int exponent_bits, int mantissa_bits) {
  const int magnitudes = 1 << (exponent_bits + mantissa_bits);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  std::vector<float> table(static_cast<size_t>(2 * magnitudes));
  for (int code = 0; code < magnitudes; ++code) {
    const int exponent = code >> mantissa_bits;
    const int mantissa = code & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa | (1 << mantissa_bits);
    const float value = std::ldexp(static_cast<float>(significand),
                                   (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
    table[code] = value;
    table[code + magnitudes] = -value;
  }
  return TableGrid(1 + exponent_bits + mantissa_bits, std::move(table));
}

Grid FiniteGrid(float (*value_of)(uint8_t)) {
  std::vector<float> table(256);
  for (int code = 0; code < 256; ++code) {
    const float value = value_of(static_cast<uint8_t>(code));
    table[code] = std::isfinite(value) ? value : 0.0f;
  }
  return TableGrid(8, std::move(table));
}

}  // namespace

Grid E2M1Grid() { return SignedGrid(2, 1); }
Grid E2M3Grid() { return SignedGrid(2, 3); }
Grid E3M2Grid() { return SignedGrid(3, 2); }
Grid E5M2Grid() { return FiniteGrid(FloatFromE5M2); }
Grid E4M3FNUZGrid() { return FiniteGrid(FloatFromE4M3FNUZ); }

}  // namespace quantd

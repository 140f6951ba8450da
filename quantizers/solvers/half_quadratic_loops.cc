#include "quantizers/solvers/half_quadratic_loops.h"

#include <array>
#include <bit>
#include <cmath>
#include <type_traits>

#include "core/instruction_set.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr float kInverseBeta = 0.1f;
constexpr float kPower = -0.3f;  // p - 1 for the l_p norm with p = 0.7
// Residuals up to here are never above |x|^(p-1) / beta, whatever a power function's last bit.
constexpr float kAlwaysShrunkToZero = 0.17f;

// Upstream's shrink_lp_op: sign(x) * max(|x| - |x|^(p-1) / beta, 0).
float Shrink(float x) {
  const float magnitude = std::fabs(x);
  if (magnitude <= kAlwaysShrunkToZero) return 0.0f;
  // Rounded once; torch's vectorized power is at most one unit in the last place away.
  const float power =
      static_cast<float>(std::pow(static_cast<double>(magnitude), static_cast<double>(kPower)));
  return std::copysign(std::max(magnitude - kInverseBeta * power, 0.0f), x);
}

#define QUANTD_LOOPS "quantizers/solvers/half_quadratic_loops.inc"
#include "kernels/cpu/every_isa.inc"

}  // namespace

const HalfQuadraticLoops& BestHalfQuadraticLoops() { return VariantsOfThisCpu().best(); }

const HalfQuadraticLoops* const* AllHalfQuadraticLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

#include "quantizers/solvers/half_quadratic_loops.h"

#include <array>
#include <bit>
#include <cmath>

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

namespace baseline {
constexpr char kIsa[] = "baseline";
#include "quantizers/solvers/half_quadratic_loops.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
#include "quantizers/solvers/half_quadratic_loops.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
#include "quantizers/solvers/half_quadratic_loops.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

const Variants<HalfQuadraticLoops>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<HalfQuadraticLoops> variants(&baseline::kLoops, &avx2::kLoops,
                                                     &avx512::kLoops);
#else
  static const Variants<HalfQuadraticLoops> variants(&baseline::kLoops, nullptr, nullptr);
#endif
  return variants;
}

}  // namespace

const HalfQuadraticLoops& BestHalfQuadraticLoops() { return VariantsOfThisCpu().best(); }

const HalfQuadraticLoops* const* AllHalfQuadraticLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

#include "quantizers/solvers/sign_round_loops.h"

#include <algorithm>

#include "core/instruction_set.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int kLanes = 16;       // partial sums of a group, added in order: part of the result
constexpr float kFar = 0x1p20f;  // beyond every code, within what RoundHalfEven takes

namespace baseline {
constexpr char kIsa[] = "baseline";
#include "quantizers/solvers/sign_round_loops.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
#include "quantizers/solvers/sign_round_loops.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
#include "quantizers/solvers/sign_round_loops.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

const Variants<SignRoundLoops>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<SignRoundLoops> variants(&baseline::kLoops, &avx2::kLoops, &avx512::kLoops);
#else
  static const Variants<SignRoundLoops> variants(&baseline::kLoops, nullptr, nullptr);
#endif
  return variants;
}

}  // namespace

const SignRoundLoops& BestSignRoundLoops() { return VariantsOfThisCpu().best(); }

const SignRoundLoops* const* AllSignRoundLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

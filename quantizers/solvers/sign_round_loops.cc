#include "quantizers/solvers/sign_round_loops.h"

#include <algorithm>
#include <type_traits>

#include "core/instruction_set.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int kLanes = 16;       // partial sums of a group, added in order: part of the result
constexpr float kFar = 0x1p20f;  // beyond every code, within what RoundHalfEven takes

#define QUANTD_LOOPS "quantizers/solvers/sign_round_loops.inc"
#include "kernels/cpu/every_isa.inc"

}  // namespace

const SignRoundLoops& BestSignRoundLoops() { return VariantsOfThisCpu().best(); }

const SignRoundLoops* const* AllSignRoundLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

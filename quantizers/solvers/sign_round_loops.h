// The loops of SignRoundTuner over the weights of a group, one table per instruction set.
#ifndef QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_LOOPS_H_
#define QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_LOOPS_H_

#include <cstdint>

namespace quantd {

// How the weights of a group become codes.
struct GroupRounding {
  float scale, zero;
  float least, most;  // codes
};
// d loss / d scale and zero point.
struct GroupGradient {
  double by_scale = 0;
  double by_zero = 0;
};

// All variants give the same bits.
struct SignRoundLoops {
  const char* isa;
  // out[i] = what the code of values[i] / scale + rounding[i] stands for, i < n.
  void (*round)(const GroupRounding& group, const float* values, const float* rounding, int64_t n,
                float* out);
  // Moves `rounding` by `rate` against the sign of its gradient; `gradient` is by what `round`
  // gives.
  GroupGradient (*step)(const GroupRounding& group, const float* values, float rate, int64_t n,
                        const float* gradient, float* rounding);
};
const SignRoundLoops& BestSignRoundLoops();
// Those that this processor runs, the best last; null-terminated.
const SignRoundLoops* const* AllSignRoundLoops();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_SIGN_ROUND_LOOPS_H_

// The loops of half_quadratic.cc over the weights of a group, compiled once per instruction set,
// with the same bits.
#ifndef QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_LOOPS_H_
#define QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_LOOPS_H_

#include <cstdint>

namespace quantd {

// Scales are inverse: codes per weight.
struct HalfQuadraticLoops {
  const char* isa;
  // One step of the iteration on `groups` groups of `size` neighbours each: how far the present
  // codes are off, into errors [groups, size], and the next zero points. `scratch` holds `size`.
  void (*step)(const float* weights, int64_t groups, int64_t size, const float* scales,
               float max_code, float* zeros, float* errors, float* scratch);
  // The same for weights that have a scale and a zero point each: errors, and the zero points that
  // they would like.
  void (*step_each)(const float* weights, int64_t count, const float* scales, const float* zeros,
                    float max_code, float* wishes, float* errors);
  void (*codes)(const float* weights, int64_t count, float scale, float zero, float max_code,
                uint8_t* codes);
  void (*codes_each)(const float* weights, int64_t count, const float* scales, const float* zeros,
                     float max_code, uint8_t* codes);
};

// The widest variant that this processor runs.
const HalfQuadraticLoops& BestHalfQuadraticLoops();
// All variants that this processor runs, for tests; null-terminated.
const HalfQuadraticLoops* const* AllHalfQuadraticLoops();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_HALF_QUADRATIC_LOOPS_H_

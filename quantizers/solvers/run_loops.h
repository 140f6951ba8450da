// The loops of the solvers that round to the nearest, over the elements of one run: what a scale is
// chosen by, and the codes. Compiled once per instruction set, with the same bits.
#ifndef QUANTD_QUANTIZERS_SOLVERS_RUN_LOOPS_H_
#define QUANTD_QUANTIZERS_SOLVERS_RUN_LOOPS_H_

#include <algorithm>
#include <cstdint>

#include "core/dtype.h"
#include "quantizers/grids/four_bit.h"

namespace quantd {

struct Range {
  float min = 0;
  float max = 0;
  float absmax() const { return std::max(max, -min); }  // never minus zero
};

// What becomes of a value on its way to its code, besides the scale.
struct Rounding {
  float zero = 0;  // added to the rounded value
  float low = 0;   // the result is clamped between these
  float high = 0;
  int first = 0;  // subtracted from it
};

struct SquareSums {
  double difference = 0;
  double values = 0;
};

// Those that round every operation to a dtype.
struct DTypeRunLoops {
  using Encode = void (*)(const float* values, int64_t count, float scale, const Rounding& rounding,
                          uint8_t* codes);
  // round(values / scale); with zero: round(values / scale + zero). Clamped before it is rounded.
  Encode divided, divided_with_zero;
  // The same as sign and magnitude of a small float.
  Encode divided_e2m1, divided_e2m3, divided_e4m3;
  // round(values * scale) + zero, clamped last.
  Encode multiplied;
  // round((values - zero) / scale); 0 where that is NaN.
  Encode above_zero;
  // round(values / scale); 0 where that is NaN.
  Encode divided_or_0, divided_e4m3_or_0;
};

struct RunLoops {
  const char* isa;
  // With zero always between them.
  Range (*range)(const float* values, int64_t count);
  // Of equal zeros the first, because its sign may be stored.
  Range (*least_and_greatest)(const float* values, int64_t count);
  // Rounds to float16; magnitudes beyond it become the largest.
  void (*saturate_float16)(float* values, int64_t count);
  // The code of clamp(values * factor, -1, 1).
  void (*four_bit)(const FourBitTable& table, const float* values, int64_t count, float factor,
                   uint8_t* codes);
  // Half away from zero: clamp(round(values / scale), -128, 127) + 128; 0 + 128 for a scale of 0.
  void (*int8_away)(const float* values, int64_t count, float scale, uint8_t* codes);
  // float8_e4m3fn of clamp(values * factor, -448, 448).
  void (*multiplied_e4m3)(const float* values, int64_t count, float factor, uint8_t* codes);
  DTypeRunLoops by_dtype[3];  // float32, bfloat16, float16
  // Sums of squares of values - approximation and of values.
  SquareSums (*squares)(const float* values, const float* approximation, int64_t count);

  const DTypeRunLoops& In(DType dtype) const {
    return by_dtype[dtype == DType::kBF16 ? 1 : dtype == DType::kF16 ? 2 : 0];
  }
};

// The widest variant that this processor runs.
const RunLoops& BestRunLoops();
// All variants that this processor runs, for tests; null-terminated.
const RunLoops* const* AllRunLoops();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_RUN_LOOPS_H_

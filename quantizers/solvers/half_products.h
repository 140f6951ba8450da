// Products and quotients rounded to float16 one by one, as torch computes with float16 tensors: the
// inner loops of AWQ's searches.
#ifndef QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_
#define QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_

#include <cstdint>

namespace quantd {

// Codes of float16 arithmetic: round(x / scale) + zero, between `least` and `most`.
struct HalfGrid {
  float scale = 0;
  float zero = 0;
  float least = 0;
  float most = 0;
};

struct HalfProducts {
  const char* isa;
  // sums[t] = float16(sum over i of float16(x[t * stride + i] * w[i])), i < count, t < rows.
  // Sixteen partial sums in float32, added up in pairs: the same bits in every variant.
  void (*sums)(const float* x, int64_t stride, int64_t rows, const float* w, int64_t count,
               float* sums);
  // values[i] = float16(values[i] * factors[i]), and over factors[i], i < count.
  void (*multiply)(const float* factors, int64_t count, float* values);
  void (*divide)(const float* factors, int64_t count, float* values);
  // values[i] = what its code stands for: float16((code - zero) * scale), i < count.
  void (*round)(const HalfGrid& grid, int64_t count, float* values);
};

// The widest variant that this processor runs.
const HalfProducts& BestHalfProducts();
// All variants that this processor runs, for tests; null-terminated.
const HalfProducts* const* AllHalfProducts();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_

// Sums of products in which every product is rounded to float16, as torch multiplies and sums
// float16 tensors. The inner loop of AWQ's search for clipping limits.
#ifndef QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_
#define QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_

#include <cstdint>

namespace quantd {

struct HalfProducts {
  const char* isa;
  // sums[t] = float16(sum over i of float16(x[t * stride + i] * w[i])), i < count, t < rows.
  // Sixteen partial sums in float32, added up in pairs: the same bits in every variant.
  void (*sums)(const float* x, int64_t stride, int64_t rows, const float* w, int64_t count,
               float* sums);
};

// The widest variant that this processor runs.
const HalfProducts& BestHalfProducts();
// All variants that this processor runs, for tests; null-terminated.
const HalfProducts* const* AllHalfProducts();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_HALF_PRODUCTS_H_

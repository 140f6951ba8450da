#include "kernels/bfloat16_product.h"

#include <algorithm>
#include <cmath>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/parallel.h"
#include "kernels/bfloat16_product_amx.h"
#include "kernels/matrix_panels.h"

namespace quantd {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileCols = 32;
constexpr int64_t kChain = 32;                        // of the inner dimension: part of the result
constexpr int64_t kSlice = 256;                       // that is packed at a time
constexpr uint32_t kLeastBits = 77u << 23;            // 2^-50
constexpr int64_t kTaskRows = 576, kTaskCols = 1536;  // of C that a task fills, at most
constexpr double kPerSecond = 1e11;                   // multiplications of a thread, about

namespace baseline {
constexpr char kIsa[] = "baseline";
#define QUANTD_FMA_LANES 4
#include "kernels/bfloat16_product_tile.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
#define QUANTD_FMA_LANES 8
#include "kernels/bfloat16_product_tile.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
#define QUANTD_FMA_LANES 16
#include "kernels/bfloat16_product_tile.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

struct Variants {
  const BFloat16Product* list[5] = {};
  int count = 0;
};

const Variants& VariantsOfThisCpu() {
  static const Variants variants = [] {
    Variants v;
    v.list[v.count++] = &baseline::kProduct;
#if defined(__x86_64__)
    const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool wide = fma && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
    if (fma) v.list[v.count++] = &avx2::kProduct;
    if (wide) v.list[v.count++] = &avx512::kProduct;
    if (const BFloat16Product* amx = wide ? AmxBFloat16Product() : nullptr; amx != nullptr) {
      v.list[v.count++] = amx;
    }
#endif
    return v;
  }();
  return variants;
}

}  // namespace

const BFloat16Product* const* AllBFloat16Products() { return VariantsOfThisCpu().list; }

void AddBFloat16Product(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
                        const MatrixOperand& b, float* c, int64_t c_stride) {
  const Variants& variants = VariantsOfThisCpu();
  const BFloat16Product& best = *variants.list[variants.count - 1];
  // Packing costs as much as multiplying: parts as large as threads allow.
  MatrixParts::Size most = {kTaskRows, kTaskCols};
  const int64_t down = (rows + most.rows - 1) / most.rows;
  while (down * ((cols + most.cols - 1) / most.cols) < ComputeThreads() && most.cols > 128) {
    most.cols /= 2;
  }
  const MatrixParts parts(rows, cols, most, {96, 32});
  const auto fill = [&](int64_t task) {
    const MatrixPart part = parts[task];
    best.add(part.rows, part.cols, inner,
             {a.data + part.row * a.row_stride, a.row_stride, a.col_stride},
             {b.data + part.col * b.col_stride, b.row_stride, b.col_stride},
             c + part.row * c_stride + part.col, c_stride);
  };
  ParallelFor(parts.count(), fill, parts.multiplications(inner) / kPerSecond);
}

}  // namespace quantd

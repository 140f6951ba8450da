#include "kernels/matrix_product.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/parallel.h"
#include "kernels/matrix_panels.h"

namespace quantd {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileCols = 32;
constexpr int64_t kSlice = 256;     // of the inner dimension: part of the result
constexpr int64_t kTaskRows = 192;  // of C that a task fills, at most; fewer pack B more often
constexpr int64_t kTaskCols = 512;
constexpr double kPerSecond = 2e10;  // multiplications of a thread, about
constexpr int64_t kSmall = 1 << 18;  // multiplications that one thread does at once

}  // namespace

namespace baseline {
namespace {
constexpr int kLanes = 4;
typedef float Lanes __attribute__((vector_size(16)));
inline Lanes Fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  Lanes out;
  for (int i = 0; i < kLanes; ++i) out[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return out;
}
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
namespace {
constexpr int kLanes = 8;
using Lanes = __m256;
inline __attribute__((always_inline)) Lanes Fma(Lanes a, Lanes b, Lanes c) {
  return _mm256_fmadd_ps(a, b, c);
}
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
namespace {
constexpr int kLanes = 16;
using Lanes = __m512;
inline __attribute__((always_inline)) Lanes Fma(Lanes a, Lanes b, Lanes c) {
  return _mm512_fmadd_ps(a, b, c);
}
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

namespace {

using TileFunction = void (*)(const float*, const float*, int64_t, float*, int64_t);

TileFunction SelectTile() {
#if defined(__x86_64__)
  const bool fma = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (fma && wide) return avx512::Tile;
  if (fma) return avx2::Tile;
#endif
  return baseline::Tile;
}

// The first `height` rows and `width` columns of a tile, onto C.
void AddTile(const float* sums, int64_t height, int64_t width, float* c, int64_t c_stride) {
  for (int64_t r = 0; r < height; ++r, sums += kTileCols, c += c_stride) {
    for (int64_t k = 0; k < width; ++k) c[k] += sums[k];
  }
}

// C [rows, cols] += A B, one slice after the other, by the calling thread.
void AddBlock(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
              const MatrixOperand& b, float* c, int64_t c_stride) {
  static const TileFunction tile = SelectTile();
  thread_local std::vector<float> left, right;
  const int64_t row_panels = (rows + kTileRows - 1) / kTileRows;
  const int64_t col_panels = (cols + kTileCols - 1) / kTileCols;
  for (int64_t first = 0; first < inner; first += kSlice) {
    const int64_t depth = std::min(kSlice, inner - first);
    left.resize(static_cast<size_t>(row_panels * kTileRows * depth));
    right.resize(static_cast<size_t>(col_panels * kTileCols * depth));
    PackPanels<kTileRows>({a.data + first * a.col_stride, a.row_stride, a.col_stride}, rows, depth,
                          left.data());
    PackPanels<kTileCols>({b.data + first * b.row_stride, b.col_stride, b.row_stride}, cols, depth,
                          right.data());
    for (int64_t j = 0; j < col_panels; ++j) {
      for (int64_t i = 0; i < row_panels; ++i) {
        const float* a_panel = left.data() + i * kTileRows * depth;
        const float* b_panel = right.data() + j * kTileCols * depth;
        float* to = c + i * kTileRows * c_stride + j * kTileCols;
        const int64_t height = std::min<int64_t>(kTileRows, rows - i * kTileRows);
        const int64_t width = std::min<int64_t>(kTileCols, cols - j * kTileCols);
        if (height == kTileRows && width == kTileCols) {
          tile(a_panel, b_panel, depth, to, c_stride);
          continue;
        }
        alignas(64) float sums[kTileRows * kTileCols] = {};
        tile(a_panel, b_panel, depth, sums, kTileCols);
        AddTile(sums, height, width, to, c_stride);
      }
    }
  }
}

}  // namespace

void AddMatrixProduct(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
                      const MatrixOperand& b, float* c, int64_t c_stride) {
  if (rows * cols * inner <= kSmall) {
    AddBlock(rows, cols, inner, a, b, c, c_stride);
    return;
  }
  const MatrixParts parts(rows, cols, {kTaskRows, kTaskCols}, {kTileRows, kTileCols});
  const auto fill = [&](int64_t task) {
    const MatrixPart part = parts[task];
    AddBlock(part.rows, part.cols, inner,
             {a.data + part.row * a.row_stride, a.row_stride, a.col_stride},
             {b.data + part.col * b.col_stride, b.row_stride, b.col_stride},
             c + part.row * c_stride + part.col, c_stride);
  };
  ParallelFor(parts.count(), fill, parts.multiplications(inner) / kPerSecond);
}

}  // namespace quantd

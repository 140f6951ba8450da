#include "kernels/matrix_product.h"

#include <algorithm>
#include <cstring>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int kTileRows = 6;
constexpr int kTileCols = 32;
constexpr int64_t kSlice = 256;     // of the inner dimension: part of the result
constexpr int64_t kTaskRows = 192;  // of C that a task fills, at most; fewer pack B more often
constexpr int64_t kTaskCols = 512;
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

using TileFunction = void (*)(const float*, const float*, int64_t, float*);

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

// Panels of `width` rows of `from`, [inner, width] each, zeros past the last row.
void Pack(const MatrixOperand& from, int64_t rows, int64_t inner, int width, float* to) {
  int64_t whole = 0;
  if (width == kTileCols && from.row_stride == 1) {
    // Along the memory: panel by panel would take a few bytes of every page.
    whole = rows / kTileCols * kTileCols;
    for (int64_t k = 0; k < inner; ++k) {
      const float* line = from.data + k * from.col_stride;
      for (int64_t first = 0; first < whole; first += kTileCols) {
        std::memcpy(to + first * inner + k * kTileCols, line + first, kTileCols * sizeof(float));
      }
    }
    to += whole * inner;
  }
  for (int64_t first = whole; first < rows; first += width) {
    const int64_t count = std::min<int64_t>(width, rows - first);
    for (int64_t k = 0; k < inner; ++k, to += width) {
      const float* column = from.data + first * from.row_stride + k * from.col_stride;
      for (int64_t r = 0; r < count; ++r) to[r] = column[r * from.row_stride];
      for (int64_t r = count; r < width; ++r) to[r] = 0;
    }
  }
}

// The first `height` rows and `width` columns of a tile, onto C.
void AddTile(const float* sums, int64_t height, int64_t width, float* c, int64_t c_stride) {
  for (int64_t r = 0; r < height; ++r, sums += kTileCols, c += c_stride) {
    if (width == kTileCols) {  // a loop of known length
      for (int k = 0; k < kTileCols; ++k) c[k] += sums[k];
    } else {
      for (int64_t k = 0; k < width; ++k) c[k] += sums[k];
    }
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
    Pack({a.data + first * a.col_stride, a.row_stride, a.col_stride}, rows, depth, kTileRows,
         left.data());
    Pack({b.data + first * b.row_stride, b.col_stride, b.row_stride}, cols, depth, kTileCols,
         right.data());
    for (int64_t j = 0; j < col_panels; ++j) {
      for (int64_t i = 0; i < row_panels; ++i) {
        alignas(64) float sums[kTileRows * kTileCols];
        tile(left.data() + i * kTileRows * depth, right.data() + j * kTileCols * depth, depth,
             sums);
        AddTile(sums, std::min<int64_t>(kTileRows, rows - i * kTileRows),
                std::min<int64_t>(kTileCols, cols - j * kTileCols),
                c + i * kTileRows * c_stride + j * kTileCols, c_stride);
      }
    }
  }
}

// The `parts`-th part of `size`, rounded up to whole tiles.
int64_t PartOf(int64_t size, int64_t parts, int64_t tile) {
  const int64_t each = (size + parts - 1) / parts;
  return (each + tile - 1) / tile * tile;
}

}  // namespace

void AddMatrixProduct(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
                      const MatrixOperand& b, float* c, int64_t c_stride) {
  if (rows * cols * inner <= kSmall) {
    AddBlock(rows, cols, inner, a, b, c, c_stride);
    return;
  }
  const int64_t down = (rows + kTaskRows - 1) / kTaskRows;
  const int64_t across = (cols + kTaskCols - 1) / kTaskCols;
  // Parts of one size, in whole tiles.
  const int64_t task_rows = PartOf(rows, down, kTileRows);
  const int64_t task_cols = PartOf(cols, across, kTileCols);
  ParallelFor(down * across, [&](int64_t task) {
    const int64_t i = task / across * task_rows, j = task % across * task_cols;
    if (i >= rows || j >= cols) return;
    AddBlock(std::min(task_rows, rows - i), std::min(task_cols, cols - j), inner,
             {a.data + i * a.row_stride, a.row_stride, a.col_stride},
             {b.data + j * b.col_stride, b.row_stride, b.col_stride}, c + i * c_stride + j,
             c_stride);
  });
}

}  // namespace quantd

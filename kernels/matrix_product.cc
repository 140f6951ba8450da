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

typedef float Four __attribute__((vector_size(16)));

Four LoadFour(const float* from) {
  Four values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

// to[k * width + r] = rows[r * stride + k] for r < 4, four of k.
inline void TransposeFour(const float* rows, int64_t stride, int64_t width, float* to) {
  const Four a = LoadFour(rows), b = LoadFour(rows + stride), c = LoadFour(rows + 2 * stride),
             d = LoadFour(rows + 3 * stride);
  const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const Four out[4] = {__builtin_shufflevector(ab, cd, 0, 1, 4, 5),
                       __builtin_shufflevector(ab, cd, 2, 3, 6, 7),
                       __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5),
                       __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
  for (int k = 0; k < 4; ++k) std::memcpy(to + k * width, &out[k], sizeof(Four));
}

// The same of two rows.
inline void TransposeTwo(const float* rows, int64_t stride, int64_t width, float* to) {
  const Four a = LoadFour(rows), b = LoadFour(rows + stride);
  const Four out[2] = {__builtin_shufflevector(a, b, 0, 4, 1, 5),
                       __builtin_shufflevector(a, b, 2, 6, 3, 7)};
  for (int k = 0; k < 4; ++k) {
    std::memcpy(to + k * width, reinterpret_cast<const float*>(&out[k / 2]) + k % 2 * 2,
                2 * sizeof(float));
  }
}

// A panel of rows that lie along the memory, `count` of `width`.
void PackAcross(const float* rows, int64_t stride, int64_t count, int64_t inner, int64_t width,
                float* to) {
  const int64_t whole = inner / 4 * 4;
  int64_t r = 0;
  for (; r + 4 <= count; r += 4) {
    for (int64_t k = 0; k < whole; k += 4) {
      TransposeFour(rows + r * stride + k, stride, width, to + k * width + r);
    }
  }
  for (; r + 2 <= count; r += 2) {
    for (int64_t k = 0; k < whole; k += 4) {
      TransposeTwo(rows + r * stride + k, stride, width, to + k * width + r);
    }
  }
  for (; r < count; ++r) {
    for (int64_t k = 0; k < whole; ++k) to[k * width + r] = rows[r * stride + k];
  }
  for (int64_t k = whole; k < inner; ++k) {
    for (int64_t i = 0; i < count; ++i) to[k * width + i] = rows[i * stride + k];
  }
  if (count == width) return;
  for (int64_t k = 0; k < inner; ++k) std::fill(to + k * width + count, to + (k + 1) * width, 0.0f);
}

// Panels of `width` rows of `from`, [inner, width] each, zeros past the last row.
void Pack(const MatrixOperand& from, int64_t rows, int64_t inner, int width, float* to) {
  int64_t whole = 0;
  if (from.row_stride == 1) {
    // Along the memory: panel by panel would take a few bytes of every page.
    whole = rows / width * width;
    for (int64_t k = 0; k < inner; ++k) {
      const float* line = from.data + k * from.col_stride;
      if (width == kTileCols) {  // copies of known length
        for (int64_t first = 0; first < whole; first += kTileCols) {
          std::memcpy(to + first * inner + k * kTileCols, line + first, kTileCols * sizeof(float));
        }
      } else {
        for (int64_t first = 0; first < whole; first += kTileRows) {
          std::memcpy(to + first * inner + k * kTileRows, line + first, kTileRows * sizeof(float));
        }
      }
    }
    to += whole * inner;
  }
  for (int64_t first = whole; first < rows; first += width, to += width * inner) {
    const int64_t count = std::min<int64_t>(width, rows - first);
    const float* panel = from.data + first * from.row_stride;
    if (from.col_stride == 1) {
      PackAcross(panel, from.row_stride, count, inner, width, to);
      continue;
    }
    for (int64_t k = 0; k < inner; ++k) {
      float* out = to + k * width;
      for (int64_t r = 0; r < count; ++r) out[r] = panel[r * from.row_stride + k * from.col_stride];
      std::fill(out + count, out + width, 0.0f);
    }
  }
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
    Pack({a.data + first * a.col_stride, a.row_stride, a.col_stride}, rows, depth, kTileRows,
         left.data());
    Pack({b.data + first * b.row_stride, b.col_stride, b.row_stride}, cols, depth, kTileCols,
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
  const auto multiplications = static_cast<double>(task_rows * task_cols * inner);
  const auto fill = [&](int64_t task) {
    const int64_t i = task / across * task_rows, j = task % across * task_cols;
    if (i >= rows || j >= cols) return;
    AddBlock(std::min(task_rows, rows - i), std::min(task_cols, cols - j), inner,
             {a.data + i * a.row_stride, a.row_stride, a.col_stride},
             {b.data + j * b.col_stride, b.row_stride, b.col_stride}, c + i * c_stride + j,
             c_stride);
  };
  ParallelFor(down * across, fill, multiplications / kPerSecond);
}

}  // namespace quantd

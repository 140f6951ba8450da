#include "kernels/matrix_product.h"

#include <algorithm>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/instruction_set.h"
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
#define QUANTD_FMA_LANES 4
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
namespace {
#define QUANTD_FMA_LANES 8
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
namespace {
#define QUANTD_FMA_LANES 16
#include "kernels/matrix_product_tile.inc"
}  // namespace
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

namespace {

using TileFunction = void (*)(const float*, const float*, int64_t, float*, int64_t);

TileFunction SelectTile() {
#if defined(__x86_64__)
  const InstructionSet found = ThisInstructionSet();
  if (found == InstructionSet::kAvx512) return avx512::Tile;
  if (found == InstructionSet::kAvx2) return avx2::Tile;
#endif
  return baseline::Tile;
}

// C [rows, cols] += A B, one slice after the other, by the calling thread.
void AddBlock(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a,
              const MatrixOperand& b, float* c, int64_t c_stride) {
  static const TileFunction tile = SelectTile();
  const auto as_they_are = [](float*, int64_t) {};
  AddByPanels<kTileRows, kTileCols>(rows, cols, inner, kSlice, a, b, c, c_stride, as_they_are,
                                    tile);
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

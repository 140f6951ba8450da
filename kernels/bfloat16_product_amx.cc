// bfloat16 products on AMX tiles.
#include "kernels/rounded_product_tables.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                   \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,amx-tile,amx-bf16")
#endif

namespace quantd {
namespace {

constexpr int64_t kSide = 16;   // rows and columns of a tile of C
constexpr int64_t kPairs = 16;  // of neighbours along the inner dimension in a tile
constexpr int64_t kDepth = 2 * kPairs;
constexpr int64_t kTileWords = kSide * kPairs;
constexpr int64_t kPanel = 2 * kSide;
constexpr int64_t kSlice = 288, kTaskDepth = 1536;  // slice and depth of RoundedProduct

// Those of `mask` that are not below 2^-50, the others zero.
inline __m512 Load(__mmask16 mask, const float* from) {
  const __m512 values = _mm512_maskz_loadu_ps(mask, from);
  const __m512 least = _mm512_set1_ps(0x1p-50f);
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(values), least, _CMP_GE_OQ), values);
}

// 32 bfloat16 values, `low` first.
inline __m512i Rounded(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

inline __mmask16 MaskOf(int64_t count) {
  return count >= 16 ? __mmask16{0xffff}
                     : static_cast<__mmask16>((1 << std::max<int64_t>(count, 0)) - 1);
}

// words[r][pair] of `count` rows that lie along the memory, `depth` of them; the even index low.
void PackAlong(const float* rows, int64_t stride, int64_t count, int64_t depth, uint32_t* words) {
  for (int64_t r = 0; r < kSide; ++r, words += kPairs) {
    if (r >= count) {
      std::memset(words, 0, kPairs * sizeof(uint32_t));
      continue;
    }
    const float* row = rows + r * stride;
    const __m512 low = Load(MaskOf(depth), row), high = Load(MaskOf(depth - 16), row + 16);
    _mm512_storeu_si512(words, Rounded(low, high));
  }
}

// words[pair][r] of `count` rows that lie across the memory.
void PackAcross(const float* columns, int64_t stride, int64_t count, int64_t depth,
                uint32_t* words) {
  const __mmask16 mask = MaskOf(count);
  alignas(64) static constexpr uint16_t kZip[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                    21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                    11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const __m512i zip = _mm512_load_si512(kZip);
  for (int64_t k = 0; k < kDepth; k += 2, words += kSide) {
    const float* at = columns + k * stride;
    const __m512 even = Load(k < depth ? mask : 0, at);
    const __m512 odd = Load(k + 1 < depth ? mask : 0, at + stride);
    _mm512_storeu_si512(words, _mm512_permutexvar_epi16(zip, Rounded(even, odd)));
  }
}

#include "kernels/word_transpose.inc"

// One tile of an operand [rows, inner] at `data`: by rows of C ([r][pair], what the left side of
// the instruction takes) or by pairs ([pair][r], the right side).
void PackTile(const MatrixOperand& from, int64_t count, int64_t depth, bool by_rows,
              uint32_t* words) {
  alignas(64) uint32_t other[kTileWords];
  if (from.col_stride == 1) {
    PackAlong(from.data, from.row_stride, count, depth, by_rows ? words : other);
    if (!by_rows) TransposeWords(other, words);
    return;
  }
  if (from.row_stride == 1) {
    PackAcross(from.data, from.col_stride, count, depth, by_rows ? other : words);
    if (by_rows) TransposeWords(other, words);
    return;
  }
  float values[kSide * kDepth] = {};
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t k = 0; k < depth; ++k) {
      values[r * kDepth + k] = from.data[r * from.row_stride + k * from.col_stride];
    }
  }
  PackTile({values, kDepth, 1}, count, depth, by_rows, words);
}

int64_t SlicesOf(int64_t inner) { return (inner + kDepth - 1) / kDepth; }

int64_t PanelBytes(ProductSide, int64_t inner) {
  return 2 * SlicesOf(inner) * kTileWords * static_cast<int64_t>(sizeof(uint32_t));
}

// Two rows of tiles, [2][slice of 32].
void PackPanel(ProductSide side, const MatrixOperand& from, int64_t rows, int64_t inner,
               void* panel) {
  auto* to = static_cast<uint32_t*>(panel);
  for (int64_t first = 0; first < kPanel; first += kSide) {
    for (int64_t k = 0; k < inner; k += kDepth, to += kTileWords) {
      const MatrixOperand tile = {
          from.data + std::min(first, rows) * from.row_stride + k * from.col_stride,
          from.row_stride, from.col_stride};
      PackTile(tile, std::clamp<int64_t>(rows - first, 0, kSide), std::min(kDepth, inner - k),
               side == ProductSide::kLeft, to);
    }
  }
}

// Two rows of tiles of each side; the second begins `next` words after the first.
struct TileRows {
  const uint32_t* first;
  int64_t next;
};

// C of two by two tiles = or += their product.
void MultiplyTiles(const TileRows& left, const TileRows& right, int64_t slices, bool add, float* c,
                   int64_t c_stride) {
  const int64_t bytes = c_stride * static_cast<int64_t>(sizeof(float));
  float* below = c + kSide * c_stride;
  if (add) {
    _tile_loadd(0, c, bytes);
    _tile_loadd(1, c + kSide, bytes);
    _tile_loadd(2, below, bytes);
    _tile_loadd(3, below + kSide, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const uint32_t *a = left.first, *b = right.first;
  for (int64_t s = 0; s < slices; ++s, a += kTileWords, b += kTileWords) {
    // In the order in which multiplications need them: the first starts with two loads done.
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + right.next, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + left.next, 64);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kSide, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + kSide, bytes);
}

TileRows TilesAt(const void* panel, int64_t inner, int64_t first) {
  return {static_cast<const uint32_t*>(panel) + first / kDepth * kTileWords,
          SlicesOf(inner) * kTileWords};
}

void Multiply(const PanelPair& panels, int64_t first, int64_t depth, const TileOfC& c) {
  MultiplyTiles(TilesAt(panels.left, panels.left_inner, first),
                TilesAt(panels.right, panels.right_inner, first), SlicesOf(depth), c.add, c.data,
                c.stride);
}

}  // namespace
}  // namespace quantd

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace quantd {

const RoundedProduct* AmxBFloat16Product() {
  static constexpr RoundedProduct kProduct = {.isa = "amx",
                                              .left_rows = kPanel,
                                              .right_rows = kPanel,
                                              .slice = kSlice,
                                              .depth = kTaskDepth,
                                              .per_second = 1e11,
                                              .panel_bytes = PanelBytes,
                                              .pack = PackPanel,
                                              .multiply = Multiply,
                                              .begin = BeginTiles,
                                              .end = EndTiles};
  static const bool available = ProcessorHasTiles(TileNumbers::kBFloat16);
  return available ? &kProduct : nullptr;
}

}  // namespace quantd

#else

namespace quantd {
const RoundedProduct* AmxBFloat16Product() { return nullptr; }
}  // namespace quantd

#endif

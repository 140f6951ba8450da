// int8 products on AMX tiles.
#include "kernels/rounded_product_tables.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/amx_tiles.h"

#if defined(__clang__)
#pragma clang attribute push(                                                                   \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8"))), \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,amx-tile,amx-int8")
#endif

namespace quantd {
namespace {

#include "kernels/int8_strips.inc"

constexpr int64_t kSide = 16;       // rows and columns of a tile of C
constexpr int64_t kTileQuads = 16;  // along the inner dimension in a tile
constexpr int64_t kTileWords = kSide * kTileQuads;
constexpr int64_t kPanel = 2 * kSide;
constexpr int64_t kTileDepth = kTileQuads * kQuad;

// Two rows of tiles, [2][tile], of words [row][quad] (left) or [quad][row] (right), then scales
// [block][row].
struct Panel {
  Panel(int64_t inner, const void* data)
      : tiles((inner + kTileDepth - 1) / kTileDepth),
        blocks((inner + kInt8Block - 1) / kInt8Block),
        words(static_cast<uint32_t*>(const_cast<void*>(data))) {}
  float* scales() const { return reinterpret_cast<float*>(words + 2 * tiles * kTileWords); }

  const int64_t tiles, blocks;
  uint32_t* const words;
};

int64_t PanelBytes(ProductSide, int64_t inner) {
  const Panel panel(inner, nullptr);
  return (2 * panel.tiles * kTileWords + panel.blocks * kPanel) * int64_t{sizeof(uint32_t)};
}

void PackPanel(ProductSide side, const MatrixOperand& from, int64_t rows, int64_t inner,
               void* data) {
  const Panel panel(inner, data);
  alignas(64) uint32_t words[kBlockQuads * kSide];
  for (int64_t first = 0; first < inner; first += kInt8Block) {
    const int64_t depth = std::min(kInt8Block, inner - first);
    const BlockOfRows block({from.data + first * from.col_stride, from.row_stride, from.col_stride},
                            rows, depth);
    for (int64_t half = 0; half < 2; ++half) {
      std::memset(words, 0, sizeof words);
      const PackedStrip strip = block.Pack(half * kSide, kSide, kSide, words);
      _mm512_storeu_ps(panel.scales() + first / kInt8Block * kPanel + half * kSide,
                       strip.scales.scale);
      uint32_t* to = panel.words + (half * panel.tiles + first / kTileDepth) * kTileWords;
      for (int64_t k = 0; k < depth; k += kTileDepth, to += kTileWords) {
        const uint32_t* tile = words + k / kQuad * kSide;
        if (side == ProductSide::kLeft) {
          TransposeWords(tile, to);
        } else {
          std::memcpy(to, tile, kTileWords * sizeof(uint32_t));
        }
      }
    }
  }
}

// Two rows of tiles of each side; the second begins `next` words after the first.
struct TileRows {
  const uint32_t* first;
  int64_t next;
};

// sums [kPanel, kPanel] of `tiles` tiles.
void MultiplyTiles(const TileRows& left, const TileRows& right, int64_t tiles, int32_t* sums) {
  constexpr int64_t kBytes = kPanel * sizeof(int32_t);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const uint32_t *a = left.first, *b = right.first;
  for (int64_t t = 0; t < tiles; ++t, a += kTileWords, b += kTileWords) {
    // In the order in which multiplications need them: the first starts with two loads done.
    _tile_loadd(4, a, 64);
    _tile_loadd(6, b, 64);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(7, b + right.next, 64);
    _tile_dpbssd(1, 4, 7);
    _tile_loadd(5, a + left.next, 64);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_stored(0, sums, kBytes);
  _tile_stored(1, sums + kSide, kBytes);
  _tile_stored(2, sums + kSide * kPanel, kBytes);
  _tile_stored(3, sums + kSide * kPanel + kSide, kBytes);
}

// C [kPanel, kPanel] = or += sums times the scales of their rows and columns.
void Scale(const int32_t* sums, const float* left, const float* right, bool add, float* c,
           int64_t c_stride) {
  const __m512 right_scales[2] = {_mm512_loadu_ps(right), _mm512_loadu_ps(right + kSide)};
  for (int64_t r = 0; r < kPanel; ++r, sums += kPanel, c += c_stride) {
    const __m512 scale = _mm512_set1_ps(left[r]);
    for (int64_t half = 0; half < 2; ++half) {
      const __m512 numbers = _mm512_cvtepi32_ps(_mm512_load_si512(sums + half * kSide));
      __m512 product = _mm512_mul_ps(numbers, _mm512_mul_ps(scale, right_scales[half]));
      if (add) product = _mm512_add_ps(_mm512_loadu_ps(c + half * kSide), product);
      _mm512_storeu_ps(c + half * kSide, product);
    }
  }
}

void Multiply(const PanelPair& panels, int64_t, int64_t depth, const TileOfC& c) {
  const Panel left(panels.left_inner, panels.left), right(panels.right_inner, panels.right);
  alignas(64) int32_t sums[kPanel * kPanel];
  for (int64_t block = 0, first = 0; first < depth; ++block, first += kInt8Block) {
    const int64_t at = first / kTileDepth * kTileWords;
    const int64_t tiles = (std::min(kInt8Block, depth - first) + kTileDepth - 1) / kTileDepth;
    MultiplyTiles({left.words + at, left.tiles * kTileWords},
                  {right.words + at, right.tiles * kTileWords}, tiles, sums);
    Scale(sums, left.scales() + block * kPanel, right.scales() + block * kPanel, c.add || block > 0,
          c.data, c.stride);
  }
}

}  // namespace
}  // namespace quantd

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace quantd {

const RoundedProduct* AmxInt8Product() {
  static constexpr RoundedProduct kProduct = {.isa = "amx",
                                              .left_rows = kPanel,
                                              .right_rows = kPanel,
                                              .slice = kWholeInner,
                                              .depth = kWholeInner,
                                              .per_second = 4e11,
                                              .panel_bytes = PanelBytes,
                                              .pack = PackPanel,
                                              .multiply = Multiply,
                                              .begin = BeginTiles,
                                              .end = EndTiles};
  static const bool available = ProcessorHasTiles(TileNumbers::kInt8);
  return available ? &kProduct : nullptr;
}

}  // namespace quantd

#else

namespace quantd {
const RoundedProduct* AmxInt8Product() { return nullptr; }
}  // namespace quantd

#endif

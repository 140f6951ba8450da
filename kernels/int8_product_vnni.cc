// int8 products by VNNI: one vpdpbusd multiplies 4 columns of 16 rows.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "kernels/rounded_product_tables.h"

#include "kernels/cpu/avx512_begin.inc"

namespace quantd {
namespace {

constexpr int kTileRows = 12, kTileCols = 32;

#include "kernels/int8_strips.inc"

// Codes [quad][row] of a panel, then scales [block][row], then (left) starts [block][row]. vpdpbusd
// multiplies unsigned by signed codes: those of the right side are stored 128 too large, and a sum
// starts with what that will have added to it.
struct Panel {
  Panel(ProductSide side, int64_t inner, const void* data)
      : width(side == ProductSide::kLeft ? kTileRows : kTileCols),
        quads((inner + kQuad - 1) / kQuad),
        blocks((inner + kInt8Block - 1) / kInt8Block),
        words(static_cast<uint32_t*>(const_cast<void*>(data))) {}
  float* scales() const { return reinterpret_cast<float*>(words + quads * width); }
  int32_t* starts() const { return reinterpret_cast<int32_t*>(scales() + blocks * width); }

  const int64_t width, quads, blocks;
  uint32_t* const words;
};

int64_t PanelBytes(ProductSide side, int64_t inner) {
  const Panel panel(side, inner, nullptr);
  const int64_t numbers = side == ProductSide::kLeft ? 2 : 1;
  const int64_t bytes =
      panel.width * (panel.quads + numbers * panel.blocks) * int64_t{sizeof(float)};
  return (bytes + 63) / 64 * 64;
}

// One block of the rows from `row` on.
void PackBlock(const BlockOfRows& from, int64_t row, int64_t block, ProductSide side,
               const Panel& panel) {
  const bool is_left = side == ProductSide::kLeft;
  for (int64_t lane = 0; lane < panel.width; lane += 16) {
    const int64_t lanes = std::min<int64_t>(panel.width - lane, 16);
    const PackedStrip strip = from.Pack(row + lane, lanes, panel.width,
                                        panel.words + block * kBlockQuads * panel.width + lane);
    const int64_t at = block * panel.width + lane;
    _mm512_mask_storeu_ps(panel.scales() + at, MaskOf(lanes), strip.scales.scale);
    if (is_left) {
      _mm512_mask_storeu_epi32(panel.starts() + at, MaskOf(lanes),
                               _mm512_mullo_epi32(strip.sums, _mm512_set1_epi32(-128)));
    }
  }
  if (is_left) return;
  uint32_t* word = panel.words + block * kBlockQuads * panel.width;
  for (uint32_t* end = word + from.quads() * panel.width; word < end; word += 16) {
    const __m512i codes = _mm512_loadu_si512(word);
    _mm512_storeu_si512(word, _mm512_xor_si512(codes, _mm512_set1_epi8(-128)));
  }
}

void PackPanels(ProductSide side, const MatrixOperand& from, int64_t rows, int64_t inner,
                void* data) {
  const int64_t bytes = PanelBytes(side, inner), width = Panel(side, inner, data).width;
  for (int64_t first = 0; first < inner; first += kInt8Block) {
    const BlockOfRows block({from.data + first * from.col_stride, from.row_stride, from.col_stride},
                            rows, std::min(kInt8Block, inner - first));
    std::byte* to = static_cast<std::byte*>(data);
    for (int64_t row = 0; row < rows; row += width, to += bytes) {
      PackBlock(block, row, first / kInt8Block, side, Panel(side, inner, to));
    }
  }
}

// Written as assembly because GCC 12 copies and spills what the intrinsic adds to.
inline __attribute__((always_inline)) void AddDot(__m512i& sum, const __m512i& right,
                                                  const __m512i& left) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(right), "v"(left));
}

struct BlockArgs {
  const int32_t* left;
  const uint32_t* right;
  int64_t quads;
  const float* left_scales;
  const float* right_scales;
  const int32_t* starts;
  float* c;
  int64_t c_stride;
  bool add;
};

// Two registers for each of the rows of a tile: members, since GCC 12 keeps arrays in memory.
template <int kRows>
struct TileSums {
  TileSums<kRows - 1> above;
  __m512i low, high;

  inline __attribute__((always_inline)) void Start(const BlockArgs& args) {
    above.Start(args);
    low = high = _mm512_set1_epi32(args.starts[kRows - 1]);
  }
  inline __attribute__((always_inline)) void Add(const int32_t* left, const __m512i& right_low,
                                                 const __m512i& right_high) {
    above.Add(left, right_low, right_high);
    const __m512i codes = _mm512_set1_epi32(left[kRows - 1]);
    AddDot(low, right_low, codes);
    AddDot(high, right_high, codes);
  }
  inline __attribute__((always_inline)) void Finish(const BlockArgs& args) const {
    above.Finish(args);
    const __m512 scale = _mm512_set1_ps(args.left_scales[kRows - 1]);
    float* to = args.c + (kRows - 1) * args.c_stride;
    const auto finish = [&](const __m512i& sum, int64_t at) __attribute__((always_inline)) {
      const __m512 scales = _mm512_mul_ps(scale, _mm512_loadu_ps(args.right_scales + at));
      __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scales);
      if (args.add) product = _mm512_add_ps(_mm512_loadu_ps(to + at), product);
      _mm512_storeu_ps(to + at, product);
    };
    finish(low, 0);
    finish(high, 16);
  }
};
template <>
struct TileSums<0> {
  void Start(const BlockArgs&) {}
  void Add(const int32_t*, const __m512i&, const __m512i&) {}
  void Finish(const BlockArgs&) const {}
};

// Not inlined, so that nothing else takes its registers.
__attribute__((noinline)) void MultiplyBlock(const BlockArgs& from) {
  const BlockArgs args = from;  // which stores cannot change
  TileSums<kTileRows> sums;
  sums.Start(args);
  const int32_t* left = args.left;
  const uint32_t* right = args.right;
  for (int64_t quad = 0; quad < args.quads; ++quad, left += kTileRows, right += kTileCols) {
    sums.Add(left, _mm512_loadu_si512(right), _mm512_loadu_si512(right + 16));
  }
  sums.Finish(args);
}

void Multiply(const PanelPair& panels, int64_t, int64_t depth, const TileOfC& c) {
  const Panel left(ProductSide::kLeft, panels.left_inner, panels.left);
  const Panel right(ProductSide::kRight, panels.right_inner, panels.right);
  // C comes while the first block is multiplied.
  for (int r = 0; r < kTileRows; ++r) {
    __builtin_prefetch(c.data + r * c.stride, 1);
    __builtin_prefetch(c.data + r * c.stride + 16, 1);
  }
  for (int64_t block = 0, first = 0; first < depth; ++block, first += kInt8Block) {
    const int64_t quads = (std::min(kInt8Block, depth - first) + kQuad - 1) / kQuad;
    const int64_t at = block * kBlockQuads;
    MultiplyBlock({reinterpret_cast<const int32_t*>(left.words) + at * kTileRows,
                   right.words + at * kTileCols, quads, left.scales() + block * kTileRows,
                   right.scales() + block * kTileCols, left.starts() + block * kTileRows, c.data,
                   c.stride, c.add || block > 0});
  }
}

}  // namespace
}  // namespace quantd

#include "kernels/cpu/target_end.inc"

namespace quantd {

const RoundedProduct* VnniInt8Product() {
  static constexpr RoundedProduct kProduct = {.isa = "vnni",
                                              .left_rows = kTileRows,
                                              .right_rows = kTileCols,
                                              .packed_rows = kCopiedRows,
                                              .slice = kWholeInner,
                                              .depth = kWholeInner,
                                              .per_second = 2.5e11,
                                              .panel_bytes = PanelBytes,
                                              .pack = PackPanels,
                                              .multiply = Multiply};
  return &kProduct;
}

}  // namespace quantd
#else
#include "kernels/rounded_product_tables.h"

namespace quantd {
const RoundedProduct* VnniInt8Product() { return nullptr; }
}  // namespace quantd
#endif

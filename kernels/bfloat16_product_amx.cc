#include "kernels/bfloat16_product_amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

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
constexpr int64_t kSlice = 288, kTaskDepth = 1536;  // slice and depth of BFloat16Product

// Palette 1: eight tiles of 16 rows of 64 bytes.
struct __attribute__((packed)) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

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

// Of 16 by 16 words: neighbours, pairs of them, then quarters change places.
void Transpose(const uint32_t* from, uint32_t* to) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(from + i * 16);
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  constexpr int kEven = 0x88, kOdd = 0xdd;  // quarters of two registers
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(r[j], r[4 + j], kEven);
    const __m512i b = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], kEven);
    const __m512i c = _mm512_shuffle_i32x4(r[j], r[4 + j], kOdd);
    const __m512i d = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], kOdd);
    _mm512_storeu_si512(to + j * 16, _mm512_shuffle_i32x4(a, b, kEven));
    _mm512_storeu_si512(to + (4 + j) * 16, _mm512_shuffle_i32x4(c, d, kEven));
    _mm512_storeu_si512(to + (8 + j) * 16, _mm512_shuffle_i32x4(a, b, kOdd));
    _mm512_storeu_si512(to + (12 + j) * 16, _mm512_shuffle_i32x4(c, d, kOdd));
  }
}

// One tile of an operand [rows, inner] at `data`: by rows of C ([r][pair], what the left side of
// the instruction takes) or by pairs ([pair][r], the right side).
void PackTile(const MatrixOperand& from, int64_t count, int64_t depth, bool by_rows,
              uint32_t* words) {
  alignas(64) uint32_t other[kTileWords];
  if (from.col_stride == 1) {
    PackAlong(from.data, from.row_stride, count, depth, by_rows ? words : other);
    if (!by_rows) Transpose(other, words);
    return;
  }
  if (from.row_stride == 1) {
    PackAcross(from.data, from.col_stride, count, depth, by_rows ? other : words);
    if (by_rows) Transpose(other, words);
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

void Multiply(const PanelPair& panels, int64_t first, int64_t depth, const PanelOfC& c) {
  const int64_t slices = SlicesOf(depth);
  const TileRows left = TilesAt(panels.left, panels.left_inner, first);
  const TileRows right = TilesAt(panels.right, panels.right_inner, first);
  if (c.rows == kPanel && c.cols == kPanel) {
    MultiplyTiles(left, right, slices, c.add, c.data, c.stride);
    return;
  }
  alignas(64) float edge[kPanel * kPanel] = {};
  const size_t bytes = static_cast<size_t>(c.cols) * sizeof(float);
  for (int64_t r = 0; c.add && r < c.rows; ++r) {
    std::memcpy(edge + r * kPanel, c.data + r * c.stride, bytes);
  }
  MultiplyTiles(left, right, slices, c.add, edge, kPanel);
  for (int64_t r = 0; r < c.rows; ++r) {
    std::memcpy(c.data + r * c.stride, edge + r * kPanel, bytes);
  }
}

void Begin() {
  // In memory: the intrinsic does not tell compilers that it reads all of it.
  static constexpr TileConfig kConfig;
  _tile_loadconfig(&kConfig);
}

void End() { _tile_release(); }

}  // namespace
}  // namespace quantd

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace quantd {
namespace {

bool ProcessorHasAmx() {
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  const bool tiles = (edx >> 22 & 1) != 0 && (edx >> 24 & 1) != 0;  // AMX-BF16, AMX-TILE
  return tiles && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
         (eax >> 5 & 1) != 0;  // AVX512_BF16
}

// Linux gives the tile registers to processes that ask for them.
bool KernelGrantsTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

const BFloat16Product* AmxBFloat16Product() {
  static constexpr BFloat16Product kProduct = {"amx",      kPanel,    kPanel,   kSlice, kTaskDepth,
                                               PanelBytes, PackPanel, Multiply, Begin,  End};
  static const bool available = ProcessorHasAmx() && KernelGrantsTiles();
  return available ? &kProduct : nullptr;
}

}  // namespace quantd

#else

namespace quantd {
const BFloat16Product* AmxBFloat16Product() { return nullptr; }
}  // namespace quantd

#endif

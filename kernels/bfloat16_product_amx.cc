#include "kernels/bfloat16_product_amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

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
constexpr int64_t kSlice = 1024;  // of the inner dimension that is packed at a time

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

// Tiles [tile][slice of 32], an even number of them, the last zero where there are none.
void PackTiles(const MatrixOperand& from, int64_t rows, int64_t inner, bool by_rows,
               std::vector<uint32_t>& words) {
  const int64_t tiles = (rows + 2 * kSide - 1) / (2 * kSide) * 2;
  const int64_t slices = (inner + kDepth - 1) / kDepth;
  words.resize(static_cast<size_t>(tiles * slices * kTileWords));
  uint32_t* to = words.data();
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = std::min(t * kSide, rows);
    for (int64_t s = 0; s < slices; ++s, to += kTileWords) {
      const int64_t k = s * kDepth;
      PackTile({from.data + first * from.row_stride + k * from.col_stride, from.row_stride,
                from.col_stride},
               std::min(kSide, rows - first), std::min(kDepth, inner - k), by_rows, to);
    }
  }
}

// C of two by two tiles += two rows of tiles times two columns of them.
void AddTiles(const uint32_t* left, const uint32_t* right, int64_t slices, float* c,
              int64_t c_stride) {
  const int64_t bytes = c_stride * static_cast<int64_t>(sizeof(float)), next = slices * kTileWords;
  float* below = c + kSide * c_stride;
  _tile_loadd(0, c, bytes);
  _tile_loadd(1, c + kSide, bytes);
  _tile_loadd(2, below, bytes);
  _tile_loadd(3, below + kSide, bytes);
  for (int64_t s = 0; s < slices; ++s, left += kTileWords, right += kTileWords) {
    _tile_loadd(4, left, 64);
    _tile_loadd(5, left + next, 64);
    _tile_loadd(6, right, 64);
    _tile_loadd(7, right + next, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, bytes);
  _tile_stored(1, c + kSide, bytes);
  _tile_stored(2, below, bytes);
  _tile_stored(3, below + kSide, bytes);
}

// The same where only `height` rows and `width` columns are left.
void AddEdge(const uint32_t* left, const uint32_t* right, int64_t slices, int64_t height,
             int64_t width, float* c, int64_t c_stride) {
  constexpr int64_t kBlock = 2 * kSide;
  alignas(64) float edge[kBlock * kBlock] = {};
  const size_t bytes = static_cast<size_t>(width) * sizeof(float);
  for (int64_t r = 0; r < height; ++r) std::memcpy(edge + r * kBlock, c + r * c_stride, bytes);
  AddTiles(left, right, slices, edge, kBlock);
  for (int64_t r = 0; r < height; ++r) std::memcpy(c + r * c_stride, edge + r * kBlock, bytes);
}

void Add(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a, const MatrixOperand& b,
         float* c, int64_t c_stride) {
  constexpr int64_t kBlock = 2 * kSide;
  thread_local std::vector<uint32_t> left, right;
  const TileConfig config;
  _tile_loadconfig(&config);
  for (int64_t first = 0; first < inner; first += kSlice) {
    const int64_t depth = std::min(kSlice, inner - first), slices = (depth + kDepth - 1) / kDepth;
    PackTiles({a.data + first * a.col_stride, a.row_stride, a.col_stride}, rows, depth, true, left);
    PackTiles({b.data + first * b.row_stride, b.col_stride, b.row_stride}, cols, depth, false,
              right);
    for (int64_t j = 0; j < cols; j += kBlock) {
      for (int64_t i = 0; i < rows; i += kBlock) {
        const int64_t height = std::min(kBlock, rows - i), width = std::min(kBlock, cols - j);
        float* to = c + i * c_stride + j;
        const uint32_t* row = left.data() + i / kSide * slices * kTileWords;
        const uint32_t* column = right.data() + j / kSide * slices * kTileWords;
        if (height == kBlock && width == kBlock) {
          AddTiles(row, column, slices, to, c_stride);
        } else {
          AddEdge(row, column, slices, height, width, to, c_stride);
        }
      }
    }
  }
  _tile_release();
}

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
  static constexpr BFloat16Product kProduct = {"amx", Add};
  static const bool available = ProcessorHasAmx() && KernelGrantsTiles();
  return available ? &kProduct : nullptr;
}

}  // namespace quantd

#else

namespace quantd {
const BFloat16Product* AmxBFloat16Product() { return nullptr; }
}  // namespace quantd

#endif

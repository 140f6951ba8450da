// kU4 and kU8 panels with VNNI: one vpdpbusd multiplies 4 columns of 16 rows by one token.
#include <immintrin.h>

#include "kernels/cpu/tiles.h"

#include "kernels/cpu/avx512_begin.inc"

namespace quantd::cpu::avx512 {
namespace {

using AliasedInt = int32_t __attribute__((may_alias));

// Adds codes (unsigned) times the 4 int8 at `x`. Written as assembly because GCC 12 copies and
// spills accumulator arrays around the intrinsic, which halves the speed.
inline __attribute__((always_inline)) void Dot(__m512i& sum, const __m512i& codes,
                                               const int8_t* x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0"
      : "+v"(sum)
      : "v"(codes), "m"(*reinterpret_cast<const AliasedInt*>(x)));
}

inline __attribute__((always_inline)) __m512 LoadScales(const std::byte* scales, bool half) {
  if (half) return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
  return _mm512_loadu_ps(scales);
}

// How far ahead of the arithmetic a panel is fetched, bytes. Hardware stops at page ends.
constexpr int kAhead = 2048;

// Sums of one block for both terms of the activations. With one token a second set hides the
// latency of vpdpbusd; integers make any split exact.
template <int kTokens>
struct BlockSums {
  static constexpr int kSets = kTokens == 1 ? 2 : 1;
  __m512i first[kSets][kTokens], second[kSets][kTokens];

  inline __attribute__((always_inline)) void Start() {
    for (int s = 0; s < kSets; ++s) {
      for (int n = 0; n < kTokens; ++n) first[s][n] = second[s][n] = _mm512_setzero_si512();
    }
  }
  inline __attribute__((always_inline)) void Add(int set, const __m512i& codes, const int8_t* x) {
    for (int n = 0; n < kTokens; ++n) {
      Dot(first[set % kSets][n], codes, x + n * kQuadBytes);
      Dot(second[set % kSets][n], codes, x + n * kQuadBytes + 4);
    }
  }
  inline __attribute__((always_inline)) __m512i Total(int n) const {
    __m512i coarse = first[0][n], fine = second[0][n];
    if constexpr (kSets == 2) {
      coarse = _mm512_add_epi32(coarse, first[1][n]);
      fine = _mm512_add_epi32(fine, second[1][n]);
    }
    return _mm512_add_epi32(_mm512_slli_epi32(coarse, 8), fine);
  }
};

template <bool kNibbles, ZeroMode kMode>
struct IntKernel {
  template <int kTokens>
  static void Run(const IntTile& t) {
    constexpr int kStep = kNibbles ? kLineBytes : 2 * kLineBytes;  // two quads of columns
    const __m512i low = _mm512_set1_epi8(15);
    const int8_t* x = t.x;
    int64_t at = 0;
    __m512 total[kTokens];
    for (int n = 0; n < kTokens; ++n) total[n] = _mm512_setzero_ps();
    for (int64_t group = 0; group < t.groups; ++group) {
      const std::byte* codes = t.panel + t.layout.codes(group);
      const __m512 scale = LoadScales(t.panel + t.layout.scales(group), t.half_scales);
      __m512 zero = _mm512_setzero_ps();
      if constexpr (kMode != ZeroMode::kConstant) {
        zero = LoadScales(t.panel + t.layout.zeros(group), t.half_scales);
      }
      for (int64_t block = 0; block < t.blocks_per_group; ++block, at += kTokens) {
        BlockSums<kTokens> sums;
        sums.Start();
        for (int quads = t.block_cols / 8; quads > 0; --quads) {
          __m512i first = _mm512_loadu_si512(codes), second;
          if constexpr (kTokens <= 4) {
            _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead, _MM_HINT_T0);
            if constexpr (!kNibbles) {
              _mm_prefetch(reinterpret_cast<const char*>(codes) + kAhead + 64, _MM_HINT_T0);
            }
          }
          if constexpr (kNibbles) {
            second = _mm512_and_si512(_mm512_srli_epi16(first, 4), low);
            first = _mm512_and_si512(first, low);
          } else {
            second = _mm512_loadu_si512(codes + kLineBytes);
          }
          sums.Add(0, first, x);
          sums.Add(1, second, x + kTokens * kQuadBytes);
          codes += kStep;
          x += 2 * kTokens * kQuadBytes;
        }
        for (int n = 0; n < kTokens; ++n) {
          __m512i sum = sums.Total(n);
          if constexpr (kMode == ZeroMode::kConstant) {
            sum = _mm512_add_epi32(sum, _mm512_set1_epi32(t.x_start[at + n]));
          }
          __m512 value = _mm512_cvtepi32_ps(sum);
          if constexpr (kMode == ZeroMode::kZero) {
            value = _mm512_fnmadd_ps(zero, _mm512_set1_ps(t.x_sum[at + n]), value);
          }
          const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(t.x_scale[at + n]));
          total[n] = _mm512_fmadd_ps(value, factor, total[n]);
          if constexpr (kMode == ZeroMode::kOffset) {
            total[n] = _mm512_fmadd_ps(zero, _mm512_set1_ps(t.x_sum[at + n]), total[n]);
          }
        }
      }
    }
    for (int n = 0; n < kTokens; ++n) _mm512_storeu_ps(t.out + n * kPanelRows, total[n]);
  }
};

template <bool kNibbles>
void RunMode(const IntTile& t) {
  switch (t.zero_mode) {
    case ZeroMode::kConstant:
      return Tiles<IntKernel<kNibbles, ZeroMode::kConstant>, kIntTokens>::Run(t);
    case ZeroMode::kZero:
      return Tiles<IntKernel<kNibbles, ZeroMode::kZero>, kIntTokens>::Run(t);
    case ZeroMode::kOffset:
      return Tiles<IntKernel<kNibbles, ZeroMode::kOffset>, kIntTokens>::Run(t);
  }
}

}  // namespace

void RunIntTile(const IntTile& tile) {
  tile.element == Element::kU4 ? RunMode<true>(tile) : RunMode<false>(tile);
}

}  // namespace quantd::cpu::avx512

#include "kernels/cpu/target_end.inc"

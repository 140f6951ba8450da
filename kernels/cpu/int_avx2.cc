// kU4 and kU8 panels with AVX2: a line is two registers of 8 rows.
#include <immintrin.h>

#include <cstring>

#include "kernels/cpu/tiles.h"

#include "kernels/cpu/avx2_begin.inc"

namespace quantd::cpu::avx2 {
namespace {

inline __attribute__((always_inline)) __m256i LoadCodes(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

inline __attribute__((always_inline)) __m256i Broadcast(const int8_t* x) {
  int32_t quad;
  std::memcpy(&quad, x, sizeof quad);
  return _mm256_set1_epi32(quad);
}

// Rows 0-7 (half 0) or 8-15 of a header.
inline __attribute__((always_inline)) __m256 LoadScales(const std::byte* scales, bool half_floats,
                                                        int half) {
  if (half_floats) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + half * 16)));
  }
  return _mm256_loadu_ps(reinterpret_cast<const float*>(scales + half * 32));
}

// Products of nibbles and int8 are at most 15 * 128; 16 of them, two per step, fit 16 bits, so sums
// are widened once per 32 columns.
struct Nibbles {
  static constexpr int kLineColumns = 8;

  // One term of the activations, which begins at `x`: the sum of 8 rows by kTokens in 32 bits.
  template <int kTokens>
  static void Term(const std::byte* lines, const int8_t* x, int cols, __m256i* sum) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i words[kTokens];
    for (int n = 0; n < kTokens; ++n) words[n] = _mm256_setzero_si256();
    for (int c = 0; c < cols; c += 8, lines += kLineBytes, x += 2 * kTokens * kQuadBytes) {
      const __m256i line = LoadCodes(lines);
      const __m256i first = _mm256_and_si256(line, low);
      const __m256i second = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
      for (int n = 0; n < kTokens; ++n) {
        const int8_t* quad = x + n * kQuadBytes;
        const __m256i a = _mm256_maddubs_epi16(first, Broadcast(quad));
        const __m256i b = _mm256_maddubs_epi16(second, Broadcast(quad + kTokens * kQuadBytes));
        words[n] = _mm256_add_epi16(words[n], _mm256_add_epi16(a, b));
      }
    }
    for (int n = 0; n < kTokens; ++n) sum[n] = _mm256_madd_epi16(words[n], ones);
  }

  template <int kTokens>
  static void Add(const std::byte* lines, const int8_t* x, int cols, __m256i (*sum)[2]) {
    for (int half = 0; half < 2; ++half) {
      __m256i coarse[kTokens], fine[kTokens];
      Term<kTokens>(lines + half * 32, x, cols, coarse);
      Term<kTokens>(lines + half * 32, x + 4, cols, fine);
      for (int n = 0; n < kTokens; ++n) {
        const __m256i both = _mm256_add_epi32(_mm256_slli_epi32(coarse[n], 8), fine[n]);
        sum[n][half] = _mm256_add_epi32(sum[n][half], both);
      }
    }
  }
};

// Bytes would saturate vpmaddubsw: even and odd ones are multiplied as 16-bit numbers, which takes
// both terms of the activations at once.
struct Bytes {
  static constexpr int kLineColumns = 4;

  template <int kTokens>
  static void Add(const std::byte* lines, const int8_t* x, int cols, __m256i (*sum)[2]) {
    const __m256i low = _mm256_set1_epi16(255);
    for (int c = 0; c < cols; c += 4, lines += kLineBytes, x += kTokens * kQuadBytes) {
      const __m256i top = LoadCodes(lines), bottom = LoadCodes(lines + 32);
      const __m256i even[2] = {_mm256_and_si256(top, low), _mm256_and_si256(bottom, low)};
      const __m256i odd[2] = {_mm256_srli_epi16(top, 8), _mm256_srli_epi16(bottom, 8)};
      for (int n = 0; n < kTokens; ++n) {
        const __m256i coarse = Broadcast(x + n * kQuadBytes);
        const __m256i fine = Broadcast(x + n * kQuadBytes + 4);
        const __m256i x_even = _mm256_add_epi16(_mm256_slli_epi16(coarse, 8),
                                                _mm256_srai_epi16(_mm256_slli_epi16(fine, 8), 8));
        const __m256i x_odd =
            _mm256_add_epi16(_mm256_andnot_si256(low, coarse), _mm256_srai_epi16(fine, 8));
        for (int half = 0; half < 2; ++half) {
          sum[n][half] =
              _mm256_add_epi32(sum[n][half], _mm256_add_epi32(_mm256_madd_epi16(even[half], x_even),
                                                              _mm256_madd_epi16(odd[half], x_odd)));
        }
      }
    }
  }
};

template <class Codes, ZeroMode kMode>
struct IntKernel {
  // Adds one block's sums to the totals, in the order that IntTile promises.
  template <int kTokens>
  static void Flush(const IntTile& t, int64_t group, int64_t at, const __m256i (*sum)[2],
                    __m256 (*total)[2]) {
    for (int half = 0; half < 2; ++half) {
      const __m256 scale = LoadScales(t.panel + t.layout.scales(group), t.half_scales, half);
      __m256 zero = _mm256_setzero_ps();
      if constexpr (kMode != ZeroMode::kConstant) {
        zero = LoadScales(t.panel + t.layout.zeros(group), t.half_scales, half);
      }
      for (int n = 0; n < kTokens; ++n) {
        __m256 value = _mm256_cvtepi32_ps(sum[n][half]);
        if constexpr (kMode == ZeroMode::kZero) {
          value = _mm256_fnmadd_ps(zero, _mm256_set1_ps(t.x_sum[at + n]), value);
        }
        const __m256 factor = _mm256_mul_ps(scale, _mm256_set1_ps(t.x_scale[at + n]));
        total[n][half] = _mm256_fmadd_ps(value, factor, total[n][half]);
        if constexpr (kMode == ZeroMode::kOffset) {
          total[n][half] = _mm256_fmadd_ps(zero, _mm256_set1_ps(t.x_sum[at + n]), total[n][half]);
        }
      }
    }
  }

  template <int kTokens>
  static void Run(const IntTile& t) {
    const int step = t.block_cols < 32 ? t.block_cols : 32;
    const int8_t* x = t.x;
    __m256 total[kTokens][2];
    for (int n = 0; n < kTokens; ++n) total[n][0] = total[n][1] = _mm256_setzero_ps();
    int64_t at = 0;
    for (int64_t group = 0; group < t.groups; ++group) {
      const std::byte* lines = t.panel + t.layout.codes(group);
      for (int64_t block = 0; block < t.blocks_per_group; ++block, at += kTokens) {
        __m256i sum[kTokens][2];
        for (int n = 0; n < kTokens; ++n) {
          const int32_t start = kMode == ZeroMode::kConstant ? t.x_start[at + n] : 0;
          sum[n][0] = sum[n][1] = _mm256_set1_epi32(start);
        }
        for (int c = 0; c < t.block_cols; c += step) {
          Codes::template Add<kTokens>(lines, x, step, sum);
          lines += step / Codes::kLineColumns * kLineBytes;
          x += step * 2 * kTokens;
        }
        Flush<kTokens>(t, group, at, sum, total);
      }
    }
    for (int n = 0; n < kTokens; ++n) {
      _mm256_storeu_ps(t.out + n * kPanelRows, total[n][0]);
      _mm256_storeu_ps(t.out + n * kPanelRows + 8, total[n][1]);
    }
  }
};

template <class Codes>
void RunMode(const IntTile& t) {
  switch (t.zero_mode) {
    case ZeroMode::kConstant:
      return Tiles<IntKernel<Codes, ZeroMode::kConstant>, kIntTokens>::Run(t);
    case ZeroMode::kZero:
      return Tiles<IntKernel<Codes, ZeroMode::kZero>, kIntTokens>::Run(t);
    case ZeroMode::kOffset:
      return Tiles<IntKernel<Codes, ZeroMode::kOffset>, kIntTokens>::Run(t);
  }
}

}  // namespace

void RunIntTile(const IntTile& tile) {
  tile.element == Element::kU4 ? RunMode<Nibbles>(tile) : RunMode<Bytes>(tile);
}

}  // namespace quantd::cpu::avx2

#include "kernels/cpu/target_end.inc"

// Panels of every float element against float32 activations: a line is two halves of 8 rows.
#include <immintrin.h>

#include "kernels/cpu/tiles.h"

#include "kernels/cpu/avx2_begin.inc"

namespace quantd::cpu::avx2 {
namespace {

inline __attribute__((always_inline)) __m256i LoadHalf(const std::byte* line, int half) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(line + half * 32));
}

inline __attribute__((always_inline)) __m256 LoadScales(const FloatTile& t, int64_t group,
                                                        int half) {
  const std::byte* scales = t.panel + t.layout.scales(group);
  if (t.half_scales) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales + half * 16)));
  }
  return _mm256_loadu_ps(reinterpret_cast<const float*>(scales + half * 32));
}

// Column j of a line, rows 0-7 (half 0) or 8-15.
struct F32Line {
  static constexpr int kColumns = 1;
  explicit F32Line(const FloatTile&) {}
  __m256 Column(const std::byte* line, int, int half) const {
    return _mm256_castsi256_ps(LoadHalf(line, half));
  }
};

struct F16Line {
  static constexpr int kColumns = 2;
  explicit F16Line(const FloatTile&) {}
  __m256 Column(const std::byte* line, int j, int half) const {
    return _mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(line + j * 32 + half * 16)));
  }
};

struct Bf16Line {
  static constexpr int kColumns = 2;
  explicit Bf16Line(const FloatTile&) {}
  __m256 Column(const std::byte* line, int j, int half) const {
    const __m256i both = LoadHalf(line, half);
    return _mm256_castsi256_ps(j == 0 ? _mm256_slli_epi32(both, 16)
                                      : _mm256_and_si256(both, _mm256_set1_epi32(-65536)));
  }
};

struct Lut4Line {
  static constexpr int kColumns = 8;
  explicit Lut4Line(const FloatTile& t)
      : low(_mm256_loadu_ps(t.table)), high(_mm256_loadu_ps(t.table + 8)) {}
  // vpermps looks at 3 bits of an index; the fourth chooses between the halves of the table.
  __m256 Column(const std::byte* line, int j, int half) const {
    const __m256i index = _mm256_srli_epi32(LoadHalf(line, half), j % 4 * 8 + j / 4 * 4);
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index),
                            _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  __m256 low, high;
};

struct Fp8Line {
  static constexpr int kColumns = 4;
  explicit Fp8Line(const FloatTile&) {}
  // As in float_avx512.cc.
  __m256 Column(const std::byte* line, int j, int half) const {
    const __m256i top = _mm256_slli_epi32(LoadHalf(line, half), 24 - 8 * j);
    const __m256i magnitude =
        _mm256_srli_epi32(_mm256_and_si256(top, _mm256_set1_epi32(0x7f000000)), 4);
    const __m256 value = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p120f));
    return _mm256_or_ps(value, _mm256_and_ps(_mm256_castsi256_ps(top), _mm256_set1_ps(-0.0f)));
  }
};

template <class Line>
struct FloatKernel {
  template <int kTokens>
  static void Run(const FloatTile& t) {
    const Line decoder(t);
    const float* x = static_cast<const float*>(t.x);
    __m256 total[kTokens][2];
    for (int n = 0; n < kTokens; ++n) total[n][0] = total[n][1] = _mm256_setzero_ps();
    for (int64_t group = 0; group < t.groups; ++group) {
      const std::byte* line = t.panel + t.layout.codes(group);
      __m256 sum[kTokens][2];
      for (int n = 0; n < kTokens; ++n) sum[n][0] = sum[n][1] = _mm256_setzero_ps();
      for (int64_t lines = t.group_cols / Line::kColumns; lines > 0; --lines) {
#pragma GCC unroll 8
        for (int j = 0; j < Line::kColumns; ++j) {
          const __m256 first = decoder.Column(line, j, 0), second = decoder.Column(line, j, 1);
          for (int n = 0; n < kTokens; ++n) {
            const __m256 value = _mm256_set1_ps(x[j * kTokens + n]);
            sum[n][0] = _mm256_fmadd_ps(first, value, sum[n][0]);
            sum[n][1] = _mm256_fmadd_ps(second, value, sum[n][1]);
          }
        }
        line += kLineBytes;
        x += Line::kColumns * kTokens;
      }
      for (int n = 0; n < kTokens; ++n) {
        for (int half = 0; half < 2; ++half) {
          total[n][half] =
              t.layout.header_bytes == 0
                  ? sum[n][half]
                  : _mm256_fmadd_ps(sum[n][half], LoadScales(t, group, half), total[n][half]);
        }
      }
    }
    for (int n = 0; n < kTokens; ++n) {
      _mm256_storeu_ps(t.out + n * kPanelRows, total[n][0]);
      _mm256_storeu_ps(t.out + n * kPanelRows + 8, total[n][1]);
    }
  }
};

}  // namespace

void RunFloatTile(const FloatTile& tile) {
  switch (tile.element) {
    case Element::kF32:
      return Tiles<FloatKernel<F32Line>, kDenseTokens>::Run(tile);
    case Element::kF16:
      return Tiles<FloatKernel<F16Line>, kDenseTokens>::Run(tile);
    case Element::kBf16:
      return Tiles<FloatKernel<Bf16Line>, kDenseTokens>::Run(tile);
    case Element::kLut4:
      return Tiles<FloatKernel<Lut4Line>, kCodeTokens>::Run(tile);
    default:
      return Tiles<FloatKernel<Fp8Line>, kCodeTokens>::Run(tile);
  }
}

}  // namespace quantd::cpu::avx2

#include "kernels/cpu/target_end.inc"

// Panels of every float element against float32 activations, with fused multiply-adds.
#include <immintrin.h>

#include "kernels/cpu/tiles.h"

#include "kernels/cpu/avx512_begin.inc"

namespace quantd::cpu::avx512 {
namespace {

inline __attribute__((always_inline)) __m512 LoadScales(const FloatTile& t, int64_t group) {
  const std::byte* scales = t.panel + t.layout.scales(group);
  if (!t.half_scales) return _mm512_loadu_ps(scales);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

// One line of 64 bytes as kColumns vectors of 16 rows.
struct F32Line {
  static constexpr int kColumns = 1;
  explicit F32Line(const FloatTile&) {}
  __m512 Column(const __m512i& line, int) const { return _mm512_castsi512_ps(line); }
};

struct F16Line {
  static constexpr int kColumns = 2;
  explicit F16Line(const FloatTile&) {}
  __m512 Column(const __m512i& line, int j) const {
    return _mm512_cvtph_ps(j == 0 ? _mm512_castsi512_si256(line)
                                  : _mm512_extracti64x4_epi64(line, 1));
  }
};

struct Bf16Line {
  static constexpr int kColumns = 2;
  explicit Bf16Line(const FloatTile&) {}
  __m512 Column(const __m512i& line, int j) const {
    return _mm512_castsi512_ps(j == 0 ? _mm512_slli_epi32(line, 16)
                                      : _mm512_and_si512(line, _mm512_set1_epi32(-65536)));
  }
};

struct Lut4Line {
  static constexpr int kColumns = 8;
  explicit Lut4Line(const FloatTile& t) : table(_mm512_loadu_ps(t.table)) {}
  // A lane's 8 nibbles in column order are at bits 0, 8, 16, 24, 4, 12, 20, 28; vpermps ignores
  // all but the low 4 bits of an index.
  __m512 Column(const __m512i& line, int j) const {
    return _mm512_permutexvar_ps(_mm512_srli_epi32(line, j % 4 * 8 + j / 4 * 4), table);
  }
  __m512 table;
};

struct Fp8Line {
  static constexpr int kColumns = 4;
  explicit Fp8Line(const FloatTile&) {}
  // Exponent and mantissa moved into a float32's are the value times 2^-120, subnormals included.
  __m512 Column(const __m512i& line, int j) const {
    const __m512i top = _mm512_slli_epi32(line, 24 - 8 * j);
    const __m512i magnitude =
        _mm512_srli_epi32(_mm512_and_si512(top, _mm512_set1_epi32(0x7f000000)), 4);
    const __m512 value = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p120f));
    return _mm512_or_ps(value, _mm512_castsi512_ps(_mm512_and_si512(
                                   top, _mm512_set1_epi32(static_cast<int>(0x80000000u)))));
  }
};

// Two sets of sums, for even and odd columns, hide the latency of the multiply-add where a line
// holds many columns; they are kept at any number of tokens, so that sums do not depend on it.
template <class Line>
struct FloatKernel {
  template <int kTokens>
  static void Run(const FloatTile& t) {
    constexpr int kSets = Line::kColumns > 2 ? 2 : 1;
    const Line decoder(t);
    const float* x = static_cast<const float*>(t.x);
    __m512 total[kTokens];
    for (int n = 0; n < kTokens; ++n) total[n] = _mm512_setzero_ps();
    for (int64_t group = 0; group < t.groups; ++group) {
      const std::byte* weights = t.panel + t.layout.codes(group);
      __m512 sum[kSets][kTokens];
      for (int n = 0; n < kTokens; ++n) {
        for (int s = 0; s < kSets; ++s) sum[s][n] = _mm512_setzero_ps();
      }
      for (int64_t lines = t.group_cols / Line::kColumns; lines > 0; --lines) {
        const __m512i line = _mm512_loadu_si512(weights);
#pragma GCC unroll 8
        for (int j = 0; j < Line::kColumns; ++j) {
          const __m512 w = decoder.Column(line, j);
          for (int n = 0; n < kTokens; ++n) {
            sum[j % kSets][n] =
                _mm512_fmadd_ps(w, _mm512_set1_ps(x[j * kTokens + n]), sum[j % kSets][n]);
          }
        }
        weights += kLineBytes;
        x += Line::kColumns * kTokens;
      }
      for (int n = 0; n < kTokens; ++n) {
        if constexpr (kSets == 2) sum[0][n] = _mm512_add_ps(sum[0][n], sum[1][n]);
        total[n] = t.layout.header_bytes == 0
                       ? sum[0][n]
                       : _mm512_fmadd_ps(sum[0][n], LoadScales(t, group), total[n]);
      }
    }
    for (int n = 0; n < kTokens; ++n) _mm512_storeu_ps(t.out + n * kPanelRows, total[n]);
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

}  // namespace quantd::cpu::avx512

#include "kernels/cpu/target_end.inc"

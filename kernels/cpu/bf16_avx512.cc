// kBf16 and kFp8 panels, whose weights bf16 holds exactly, against bf16 activations in two terms:
// one vdpbf16ps multiplies 2 columns of 16 rows by one term of one token.
#include <immintrin.h>

#include <array>
#include <bit>

#include "kernels/cpu/tiles.h"

#include "kernels/cpu/avx512_bf16_begin.inc"

namespace quantd::cpu::avx512 {
namespace {

using AliasedInt = int32_t __attribute__((may_alias));

inline __attribute__((always_inline)) void Dot(__m512& sum, const __m512i& weights,
                                               const uint16_t* x) {
  asm("vdpbf16ps %2%{1to16%}, %1, %0"
      : "+v"(sum)
      : "v"(weights), "m"(*reinterpret_cast<const AliasedInt*>(x)));
}

inline __attribute__((always_inline)) __m512 LoadScales(const FloatTile& t, int64_t group) {
  const std::byte* scales = t.panel + t.layout.scales(group);
  if (!t.half_scales) return _mm512_loadu_ps(scales);
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

// One line of 64 bytes as kPairs vectors of 16 rows x 2 columns of bf16, in the order of the
// activations' format.
struct Bf16Line {
  static constexpr int kPairs = 1;
  explicit Bf16Line(const FloatTile&) {}
  void Split(const __m512i& line, __m512i* pairs) const { pairs[0] = line; }
};

// High and low bytes of the bf16 of the 128 non-negative E4M3 codes.
struct E4M3Bytes {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};

constexpr E4M3Bytes MakeE4M3Bytes() {
  E4M3Bytes bytes{};
  for (int code = 0; code < 128; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    const float value = exponent == 0 ? static_cast<float>(mantissa) * 0x1p-9f
                                      : static_cast<float>(8 + mantissa) * 0x1p-10f *
                                            static_cast<float>(1 << exponent);
    const uint32_t bits = std::bit_cast<uint32_t>(value) >> 16;
    bytes.high[code] = static_cast<uint8_t>(bits >> 8);
    bytes.low[code] = static_cast<uint8_t>(bits);
  }
  return bytes;
}
constexpr E4M3Bytes kE4M3Bytes = MakeE4M3Bytes();

struct Fp8Line {
  static constexpr int kPairs = 2;
  explicit Fp8Line(const FloatTile&)
      : high{_mm512_load_si512(kE4M3Bytes.high), _mm512_load_si512(kE4M3Bytes.high + 64)},
        low{_mm512_load_si512(kE4M3Bytes.low), _mm512_load_si512(kE4M3Bytes.low + 64)} {}
  void Split(const __m512i& line, __m512i* pairs) const {
    constexpr __mmask64 kOdd = 0xaaaaaaaaaaaaaaaaull;
    constexpr int kOrAnd = 0xf8;  // a | (b & c)
    const __m512i small = _mm512_permutex2var_epi8(low[0], line, low[1]);
    const __m512i large =
        _mm512_ternarylogic_epi32(_mm512_permutex2var_epi8(high[0], line, high[1]), line,
                                  _mm512_set1_epi8(static_cast<char>(0x80)), kOrAnd);
    pairs[0] = _mm512_mask_blend_epi8(kOdd, small, _mm512_slli_epi16(large, 8));
    pairs[1] = _mm512_mask_blend_epi8(kOdd, _mm512_srli_epi16(small, 8), large);
  }
  __m512i high[2], low[2];
};

// As FloatKernel in float_avx512.cc, on pairs of columns. The two terms, and where a line holds
// several pairs even and odd ones, have sums of their own to hide the latency of vdpbf16ps, at any
// number of tokens.
template <class Line>
struct Bf16Kernel {
  template <int kTokens>
  static void Run(const FloatTile& t) {
    constexpr int kSets = Line::kPairs > 1 ? 4 : 2;
    const Line decoder(t);
    const auto* x = static_cast<const uint16_t*>(t.x);
    __m512 total[kTokens];
    for (int n = 0; n < kTokens; ++n) total[n] = _mm512_setzero_ps();
    for (int64_t group = 0; group < t.groups; ++group) {
      const std::byte* weights = t.panel + t.layout.codes(group);
      __m512 sum[kSets][kTokens];
      for (int n = 0; n < kTokens; ++n) {
        for (int s = 0; s < kSets; ++s) sum[s][n] = _mm512_setzero_ps();
      }
      for (int64_t lines = t.group_cols / (2 * Line::kPairs); lines > 0; --lines) {
        __m512i pairs[Line::kPairs];
        decoder.Split(_mm512_loadu_si512(weights), pairs);
        for (int j = 0; j < Line::kPairs; ++j) {
          for (int n = 0; n < kTokens; ++n) {
            Dot(sum[2 * j % kSets][n], pairs[j], x + (j * kTokens + n) * 4);
            Dot(sum[2 * j % kSets + 1][n], pairs[j], x + (j * kTokens + n) * 4 + 2);
          }
        }
        weights += kLineBytes;
        x += Line::kPairs * 4 * kTokens;
      }
      for (int n = 0; n < kTokens; ++n) {
        for (int s = 1; s < kSets; ++s) sum[0][n] = _mm512_add_ps(sum[0][n], sum[s][n]);
        total[n] = t.layout.header_bytes == 0
                       ? sum[0][n]
                       : _mm512_fmadd_ps(sum[0][n], LoadScales(t, group), total[n]);
      }
    }
    for (int n = 0; n < kTokens; ++n) _mm512_storeu_ps(t.out + n * kPanelRows, total[n]);
  }
};

}  // namespace

void RunBf16Tile(const FloatTile& tile) {
  switch (tile.element) {
    case Element::kBf16:
      return Tiles<Bf16Kernel<Bf16Line>, kDenseTokens>::Run(tile);
    case Element::kFp8:
      return Tiles<Bf16Kernel<Fp8Line>, kCodeTokens>::Run(tile);
    default:
      return RunFloatTile(tile);
  }
}

}  // namespace quantd::cpu::avx512

#include "kernels/cpu/target_end.inc"

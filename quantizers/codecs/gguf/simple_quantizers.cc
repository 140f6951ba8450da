// Types whose scale follows from the largest magnitude or the mean alone: TQ1_0, TQ2_0, Q1_0, Q2_0,
// MXFP4, NVFP4.
#include <bit>
#include <cmath>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/grids/ggml_lattices.h"

namespace quantd::gguf {
namespace {

float LargestMagnitude(const float* x, int count) {
  float largest = 0;
  for (int j = 0; j < count; ++j) largest = std::fmax(largest, std::fabs(x[j]));
  return largest;
}

// round(x / amax) + 1, half away from zero: trits, of which Q2_0 has a fourth value it never uses.
template <int kBlock>
void QuantizeTernary(const Rows& rows, const Parts& out) {
  for (int64_t b = 0; b < rows.count * rows.cols / kBlock; ++b) {
    const float* x = rows.x + b * kBlock;
    const float d = LargestMagnitude(x, kBlock);
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out.scale[b] = RoundToF16(d);
    for (int j = 0; j < kBlock; ++j) {
      const float v = x[j] * inverse;
      out.codes[b * kBlock + j] = std::isfinite(v) ? (v >= 0.5f ? 2 : v <= -0.5f ? 0 : 1) : 1;
    }
  }
}

void QuantizeQ1_0(const Rows& rows, const Parts& out) {
  constexpr int kBlock = 128;
  for (int64_t b = 0; b < rows.count * rows.cols / kBlock; ++b) {
    const float* x = rows.x + b * kBlock;
    float sum = 0;
    for (int j = 0; j < kBlock; ++j) {
      sum += std::fabs(x[j]);
      out.codes[b * kBlock + j] = x[j] >= 0 ? 1 : 0;
    }
    out.scale[b] = RoundToF16(sum / kBlock);
  }
}

// Nearest value; of equally near ones the one with the lower code.
uint8_t NearestFp4(float x, float scale) {
  uint8_t best = 0;
  float best_error = std::fabs(kDoubledE2M1Values[0] * scale - x);
  for (uint8_t code = 1; code < 16; ++code) {
    const float error = std::fabs(kDoubledE2M1Values[code] * scale - x);
    if (error < best_error) {
      best = code;
      best_error = error;
    }
  }
  return best;
}

void QuantizeMXFP4(const Rows& rows, const Parts& out) {
  constexpr int kBlock = 32;
  for (int64_t b = 0; b < rows.count * rows.cols / kBlock; ++b) {
    const float* x = rows.x + b * kBlock;
    const float amax = LargestMagnitude(x, kBlock);
    // Upstream's float logarithm rounds to a whole number just below a power of two.
    const float log = static_cast<float>(std::log2(static_cast<double>(amax)));
    const int e = amax > 0 ? static_cast<int>(std::floor(log)) - 2 + 127 : 0;
    const uint32_t stored = static_cast<uint8_t>(e);
    const float scale =
        std::bit_cast<float>(stored < 2 ? 0x00200000u << stored : (stored - 1) << 23);
    out.scale[b] = scale;
    for (int j = 0; j < kBlock; ++j) out.codes[b * kBlock + j] = NearestFp4(x[j], scale);
  }
}

// Unsigned E4M3 with halves rounded up, saturating at 448.
uint8_t Ue4m3FromFloat(float x) {
  if (!(x > 0)) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(std::fmin(x, 448.0f));
  const int exponent = static_cast<int>(bits >> 23) - 127 + 7;
  if (exponent <= 0) return static_cast<uint8_t>(std::fmin(x * 512.0f + 0.5f, 7.0f));
  const int rounded = (exponent << 3) + static_cast<int>(bits >> 20 & 7) + (bits >> 19 & 1);
  return static_cast<uint8_t>(rounded >= 15 << 3 ? 0x7e : rounded);
}

void QuantizeNVFP4(const Rows& rows, const Parts& out) {
  constexpr int kSub = 16;
  const int64_t blocks = rows.count * rows.cols / kSub;
  const float* halves = FindBlockFormat(GgmlType::kNVFP4)->scale_table;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* x = rows.x + b * kSub;
    const uint8_t code = Ue4m3FromFloat(LargestMagnitude(x, kSub) / 6.0f);
    out.scale_codes[b] = code;
    if (b % 4 == 0) out.scale[b / 4] = 1;
    for (int j = 0; j < kSub; ++j) out.codes[b * kSub + j] = NearestFp4(x[j], halves[code]);
  }
}

}  // namespace

std::span<const BlockQuantizer> SimpleBlockQuantizers() {
  using Use = BlockQuantizer::Importance;
  static constexpr BlockQuantizer kQuantizers[] = {
      {GgmlType::kTQ1_0, Use::kIgnored, QuantizeTernary<256>},
      {GgmlType::kTQ2_0, Use::kIgnored, QuantizeTernary<256>},
      {GgmlType::kQ2_0, Use::kIgnored, QuantizeTernary<64>},
      {GgmlType::kQ1_0, Use::kIgnored, QuantizeQ1_0},
      {GgmlType::kMXFP4, Use::kIgnored, QuantizeMXFP4},
      {GgmlType::kNVFP4, Use::kIgnored, QuantizeNVFP4},
  };
  return kQuantizers;
}

}  // namespace quantd::gguf

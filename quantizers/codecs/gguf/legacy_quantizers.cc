// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32, rounded with the scale before its own rounding to
// f16.
#include <bit>
#include <cmath>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/solvers/scale_search.h"

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;

int64_t BlocksOf(const Rows& rows) { return rows.count * rows.cols / kBlock; }

float LargestMagnitude(const float* x) {
  int32_t largest = 0;  // magnitudes order as their bits do
  for (int j = 0; j < kBlock; ++j) {
    const int32_t bits = std::bit_cast<int32_t>(x[j]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return std::bit_cast<float>(largest);
}

// The first element of the largest magnitude, with its sign.
float Extreme(const float* x) {
  const float magnitude = LargestMagnitude(x);
  for (int j = 0; j < kBlock; ++j) {
    if (std::fabs(x[j]) == magnitude) return magnitude == 0 ? 0.0f : x[j];
  }
  return 0;
}

// A scale so small that its inverse overflows: upstream's conversion of inf and NaN gives code 0.
bool Overflows(float inverse) { return std::isinf(inverse); }

template <int kHalf>  // 8 or 16: half the number of codes
void QuantizeSigned(const Rows& rows, const Parts& out) {
  const int64_t blocks = BlocksOf(rows);
  if (rows.importance != nullptr) {
    const std::vector<float> weights = ImportanceWeights(rows, rows.cols, 1);
    const SymmetricSearch search = {kBlock, kHalf, ErrorWeight::kGiven};
    BestScaleSearch().symmetric(search, rows.x, weights.data(), blocks, out.scale, out.codes);
    for (int64_t b = 0; b < blocks; ++b) out.scale[b] = RoundToF16(out.scale[b]);
    return;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const float* x = rows.x + b * kBlock;
    uint8_t* codes = out.codes + b * kBlock;
    const float d = Extreme(x) / static_cast<float>(-kHalf);
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out.scale[b] = RoundToF16(d);
    if (Overflows(inverse)) {
      std::memset(codes, 0, kBlock);
      continue;
    }
    for (int j = 0; j < kBlock; ++j) {
      const int code = static_cast<int>(x[j] * inverse + (static_cast<float>(kHalf) + 0.5f));
      codes[j] = static_cast<uint8_t>(code < 2 * kHalf ? code : 2 * kHalf - 1);
    }
  }
}

// Smallest and largest element; of equal zeros the first, because the sign is stored.
void Range(const float* x, float* min, float* max) {
  *min = *max = x[0];
  for (int j = 1; j < kBlock; ++j) {
    *min = x[j] < *min ? x[j] : *min;
    *max = x[j] > *max ? x[j] : *max;
  }
}

template <int kMaxCode>
void QuantizeAffine(const Rows& rows, const Parts& out) {
  const int64_t blocks = BlocksOf(rows);
  if (rows.importance != nullptr) {
    const std::vector<float> weights = ImportanceWeights(rows, rows.cols, 1);
    const AffineSearch search = {kBlock, kMaxCode, -0.9f, 0.05f, 36, false, ErrorWeight::kGiven};
    BestScaleSearch().affine(search, rows.x, weights.data(), blocks, out.scale, out.offset,
                             out.codes);
    for (int64_t b = 0; b < blocks; ++b) {
      out.scale[b] = RoundToF16(out.scale[b]);
      out.offset[b] = RoundToF16(-out.offset[b]);
    }
    return;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const float* x = rows.x + b * kBlock;
    uint8_t* codes = out.codes + b * kBlock;
    float min, max;
    Range(x, &min, &max);
    const float d = (max - min) / static_cast<float>(kMaxCode);
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out.scale[b] = RoundToF16(d);
    out.offset[b] = RoundToF16(min);
    if (Overflows(inverse)) {
      std::memset(codes, 0, kBlock);
      continue;
    }
    for (int j = 0; j < kBlock; ++j) {
      const int code = static_cast<int>((x[j] - min) * inverse + 0.5f);
      codes[j] = static_cast<uint8_t>(code < kMaxCode ? code : kMaxCode);
    }
  }
}

// Half away from zero, for |v| < 2^22, in operations that vectorise.
int RoundHalfAway(float v) {
  const float magnitude = std::fabs(v);
  float rounded = (magnitude + 8388608.0f) - 8388608.0f;  // half to even
  rounded += magnitude - rounded == 0.5f ? 1.0f : 0.0f;
  const int code = static_cast<int>(rounded);
  return v < 0 ? -code : code;
}

void QuantizeQ8_0(const Rows& rows, const Parts& out) {
  for (int64_t b = 0; b < BlocksOf(rows); ++b) {
    const float* x = rows.x + b * kBlock;
    uint8_t* codes = out.codes + b * kBlock;
    const float d = LargestMagnitude(x) / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out.scale[b] = RoundToF16(d);
    if (Overflows(inverse)) {
      std::memset(codes, 128, kBlock);
      continue;
    }
    for (int j = 0; j < kBlock; ++j) {
      codes[j] = static_cast<uint8_t>(RoundHalfAway(x[j] * inverse) + 128);
    }
  }
}

}  // namespace

std::vector<float> ImportanceWeights(const Rows& rows, int64_t run, float factor) {
  std::vector<float> weights(rows.count * rows.cols);
  for (int64_t begin = 0; begin < rows.count * rows.cols; begin += run) {
    float sum = 0;
    for (int64_t i = begin; i < begin + run; ++i) sum += rows.x[i] * rows.x[i];
    const float variance = factor * sum / static_cast<float>(run);
    const float* importance = rows.importance + begin % rows.cols;
    for (int64_t i = 0; i < run; ++i) {
      const float x = rows.x[begin + i];
      weights[begin + i] = importance[i] * std::sqrt(variance + x * x);
    }
  }
  return weights;
}

std::span<const BlockQuantizer> LegacyBlockQuantizers() {
  using Use = BlockQuantizer::Importance;
  static constexpr BlockQuantizer kQuantizers[] = {
      {GgmlType::kQ4_0, Use::kUsed, QuantizeSigned<8>},
      {GgmlType::kQ4_1, Use::kUsed, QuantizeAffine<15>},
      {GgmlType::kQ5_0, Use::kUsed, QuantizeSigned<16>},
      {GgmlType::kQ5_1, Use::kUsed, QuantizeAffine<31>},
      {GgmlType::kQ8_0, Use::kIgnored, QuantizeQ8_0},
  };
  return kQuantizers;
}

}  // namespace quantd::gguf

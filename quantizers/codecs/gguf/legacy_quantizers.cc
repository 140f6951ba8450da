// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32, rounded with the scale before its own rounding to
// f16.
#include <cmath>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/codecs/gguf/legacy_loops.h"
#include "quantizers/solvers/scale_search.h"

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;

int64_t BlocksOf(const Rows& rows) { return rows.count * rows.cols / kBlock; }

template <int kHalf>  // 8 or 16: half the number of codes
void QuantizeSigned(const Rows& rows, const Parts& out) {
  const int64_t blocks = BlocksOf(rows);
  if (rows.importance == nullptr) {
    const auto quantize = kHalf == 8 ? BestLegacyLoops().q4_0 : BestLegacyLoops().q5_0;
    return quantize(rows.x, blocks, out.scale, out.codes);
  }
  const std::vector<float> weights = ImportanceWeights(rows, rows.cols, 1);
  const SymmetricSearch search = {kBlock, kHalf, ErrorWeight::kGiven};
  BestScaleSearch().symmetric(search, rows.x, weights.data(), blocks, out.scale, out.codes);
  for (int64_t b = 0; b < blocks; ++b) out.scale[b] = RoundToF16(out.scale[b]);
}

template <int kMaxCode>
void QuantizeAffine(const Rows& rows, const Parts& out) {
  const int64_t blocks = BlocksOf(rows);
  if (rows.importance == nullptr) {
    const auto quantize = kMaxCode == 15 ? BestLegacyLoops().q4_1 : BestLegacyLoops().q5_1;
    return quantize(rows.x, blocks, out.scale, out.offset, out.codes);
  }
  const std::vector<float> weights = ImportanceWeights(rows, rows.cols, 1);
  const AffineSearch search = {kBlock, kMaxCode, -0.9f, 0.05f, 36, false, ErrorWeight::kGiven};
  BestScaleSearch().affine(search, rows.x, weights.data(), blocks, out.scale, out.offset,
                           out.codes);
  for (int64_t b = 0; b < blocks; ++b) {
    out.scale[b] = RoundToF16(out.scale[b]);
    out.offset[b] = RoundToF16(-out.offset[b]);
  }
}

void QuantizeQ8_0(const Rows& rows, const Parts& out) {
  BestLegacyLoops().q8_0(rows.x, BlocksOf(rows), out.scale, out.codes);
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

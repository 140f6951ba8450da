// IQ4_NL and IQ4_XS: the 16 values of one non-uniform table.
#include <algorithm>
#include <cmath>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/grids/ggml_lattices.h"
#include "quantizers/solvers/positive_scales.h"
#include "quantizers/solvers/scale_search.h"

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;
constexpr float kMidpoints[15] = {-115.5f, -93.5f, -74.0f, -57.0f, -42.0f, -28.5f, -16.0f, -4.5f,
                                  7.0f,    19.0f,  31.5f,  45.5f,  61.0f,  79.0f,  101.0f};

// Best scale of every block of 32, in `scale`.
TableSearch FitScales(const Rows& rows, int64_t run, std::vector<float>& scale) {
  TableSearch search = {kIq4NlValues, kMidpoints, 7, ErrorWeight::kSquare};
  std::vector<float> weights;
  if (rows.importance != nullptr) {
    weights = ImportanceWeights(rows, run, 2);
    search.weight = ErrorWeight::kGiven;
  }
  scale.resize(rows.count * rows.cols / kBlock);
  BestScaleSearch().table(search, rows.x, weights.data(), static_cast<int64_t>(scale.size()),
                          scale.data());
  return search;
}

void QuantizeIQ4_NL(const Rows& rows, const Parts& out) {
  std::vector<float> scale;
  const TableSearch search = FitScales(rows, kBlock, scale);
  for (size_t b = 0; b < scale.size(); ++b) {
    out.scale[b] = RoundToF16(scale[b]);
    scale[b] = scale[b] != 0 ? 1.0f / scale[b] : 0.0f;
  }
  BestScaleSearch().nearest_in_table(search, rows.x, scale.data(),
                                     static_cast<int64_t>(scale.size()), out.codes);
}

void QuantizeIQ4_XS(const Rows& rows, const Parts& out) {
  std::vector<float> scale;
  const TableSearch search = FitScales(rows, 256, scale);
  for (size_t s = 0; s < scale.size() / 8; ++s) {
    float magnitude = 0, largest = 0;
    for (size_t b = 8 * s; b < 8 * s + 8; ++b) {
      if (!(std::fabs(scale[b]) > magnitude)) continue;
      magnitude = std::fabs(scale[b]);
      largest = scale[b];
    }
    const float d = -largest / 32.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    out.scale[s] = RoundToF16(d);
    for (size_t b = 8 * s; b < 8 * s + 8; ++b) {
      const int code = std::clamp(NearestEvenInt(inverse * scale[b]), -32, 31);
      out.scale_codes[b] = static_cast<uint8_t>(code + 32);
      const float effective = d * static_cast<float>(code);
      scale[b] = effective != 0 ? 1.0f / effective : 0.0f;
    }
  }
  BestScaleSearch().nearest_in_table(search, rows.x, scale.data(),
                                     static_cast<int64_t>(scale.size()), out.codes);
}

}  // namespace

std::span<const BlockQuantizer> Iq4BlockQuantizers() {
  using Use = BlockQuantizer::Importance;
  static constexpr BlockQuantizer kQuantizers[] = {
      {GgmlType::kIQ4_NL, Use::kUsed, QuantizeIQ4_NL},
      {GgmlType::kIQ4_XS, Use::kUsed, QuantizeIQ4_XS},
  };
  return kQuantizers;
}

}  // namespace quantd::gguf

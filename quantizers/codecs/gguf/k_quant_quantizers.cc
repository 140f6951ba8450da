// Q2_K ... Q6_K: a scale (and minimum) per sub-block by search, those rounded together per 256
// elements, then all codes chosen again with the rounded scales.
#include <algorithm>
#include <cmath>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/solvers/positive_scales.h"
#include "quantizers/solvers/scale_search.h"

namespace quantd::gguf {
namespace {

constexpr int kSuper = 256;
constexpr float kTiny = 1e-15f;

// What the searches found, and the effective scales after rounding.
struct SubBlocks {
  SubBlocks(const Rows& rows, int size)
      : size(size),
        supers(rows.count * rows.cols / kSuper),
        count(rows.count * rows.cols / size),
        scale(count),
        minimum(count),
        rounded_scale(count),
        rounded_minimum(count) {}
  int size;
  int64_t supers;
  int64_t count;
  std::vector<float> scale;
  std::vector<float> minimum;  // negated
  std::vector<float> rounded_scale;
  std::vector<float> rounded_minimum;
  int per_super() const { return kSuper / size; }
};

// Sum of the weights of each sub-block.
std::vector<float> WeightSums(const std::vector<float>& weights, int size) {
  std::vector<float> sums(weights.size() / size);
  for (size_t b = 0; b < sums.size(); ++b) {
    for (int i = 0; i < size; ++i) sums[b] += weights[b * size + i];
  }
  return sums;
}

struct AffineType {
  AffineSearch search;      // without importance
  float variance_factor;    // with it
  int max_scale_code;       // 15 or 63
  bool clamps_scale_codes;  // Q2_K keeps the low bits instead
};

// The scale codes of one super-block and their common factor (unrounded).
float RoundScales(const AffineType& type, const float* values, int count, uint8_t* codes) {
  float max = 0;
  for (int j = 0; j < count; ++j) max = std::max(max, values[j]);
  const float inverse = max > 0 ? static_cast<float>(type.max_scale_code) / max : 0.0f;
  for (int j = 0; j < count; ++j) {
    const uint8_t code = static_cast<uint8_t>(NearestEvenInt(inverse * values[j]));
    codes[j] = type.clamps_scale_codes ? std::min(code, static_cast<uint8_t>(type.max_scale_code))
                                       : static_cast<uint8_t>(code & 15);
  }
  return max / static_cast<float>(type.max_scale_code);
}

void QuantizeAffine(const AffineType& type, const Rows& rows, const Parts& out) {
  SubBlocks sub(rows, type.search.block);
  AffineSearch search = type.search;
  std::vector<float> weights, sums;
  if (rows.importance != nullptr) {
    weights = ImportanceWeights(rows, kSuper, type.variance_factor);
    sums = WeightSums(weights, sub.size);
    search.first = -0.9f;
    search.step = 0.05f;
    search.steps = 36;
    search.absolute_error = false;
    search.weight = ErrorWeight::kGiven;
  }
  const ScaleSearch& solver = BestScaleSearch();
  solver.affine(search, rows.x, weights.data(), sub.count, sub.scale.data(), sub.minimum.data(),
                out.codes);
  const int n = sub.per_super();
  for (int64_t s = 0; s < sub.supers; ++s) {
    uint8_t* scale_codes = out.scale_codes + s * n;
    uint8_t* offset_codes = out.offset_codes + s * n;
    const float* scales = &sub.scale[s * n];
    const float* minima = &sub.minimum[s * n];
    float d, m;
    if (sums.empty()) {
      d = RoundScales(type, scales, n, scale_codes);
      m = RoundScales(type, minima, n, offset_codes);
    } else {
      d = FitPositiveScales(n, type.max_scale_code, scales, &sums[s * n], scale_codes);
      m = FitPositiveScales(n, type.max_scale_code, minima, &sums[s * n], offset_codes);
    }
    out.scale[s] = RoundToF16(d);
    out.offset[s] = RoundToF16(m);
    for (int j = 0; j < n; ++j) {
      sub.rounded_scale[s * n + j] = out.scale[s] * static_cast<float>(scale_codes[j]);
      sub.rounded_minimum[s * n + j] = out.offset[s] * static_cast<float>(offset_codes[j]);
    }
  }
  solver.round_to_scale(sub.size, rows.x, sub.rounded_scale.data(), sub.rounded_minimum.data(), 0,
                        search.max_code, sub.count, out.codes);
}

void QuantizeQ2_K(const Rows& rows, const Parts& out) {
  QuantizeAffine({{16, 3, -0.5f, 0.1f, 15, true, ErrorWeight::kMagnitude}, 1, 15, false}, rows,
                 out);
}
void QuantizeQ4_K(const Rows& rows, const Parts& out) {
  QuantizeAffine({{32, 15, -1.0f, 0.1f, 20, false, ErrorWeight::kRmsPlusMagnitude}, 2, 63, true},
                 rows, out);
}
void QuantizeQ5_K(const Rows& rows, const Parts& out) {
  QuantizeAffine({{32, 31, -0.5f, 0.1f, 15, false, ErrorWeight::kRmsPlusMagnitude}, 2, 63, true},
                 rows, out);
}

// The scale of the largest magnitude (the first of equals), with its sign.
float LargestScale(const float* scales, int count) {
  float magnitude = 0, largest = 0;
  for (int j = 0; j < count; ++j) {
    if (!(std::fabs(scales[j]) > magnitude)) continue;
    magnitude = std::fabs(scales[j]);
    largest = scales[j];
  }
  return largest;
}

void QuantizeQ3_K(const Rows& rows, const Parts& out) {
  SubBlocks sub(rows, 16);
  const ScaleSearch& solver = BestScaleSearch();
  const int n = sub.per_super();
  std::vector<float> sums, super_scale(sub.supers);
  if (rows.importance != nullptr) {
    const std::vector<float> weights = ImportanceWeights(rows, kSuper, 2);
    sums = WeightSums(weights, sub.size);
    solver.symmetric({16, 4, ErrorWeight::kGiven}, rows.x, weights.data(), sub.count,
                     sub.scale.data(), out.codes);
    solver.symmetric({16, 32, ErrorWeight::kGiven}, sub.scale.data(), sums.data(), sub.supers,
                     super_scale.data(), out.scale_codes);
  } else {
    solver.descent(4, rows.x, sub.count, sub.scale.data(), out.codes);
  }
  for (int64_t s = 0; s < sub.supers; ++s) {
    uint8_t* scale_codes = out.scale_codes + s * n;
    const float* scales = &sub.scale[s * n];
    if (sums.empty()) {
      const float largest = LargestScale(scales, n);
      const float inverse = largest != 0 ? -32.0f / largest : 0.0f;
      for (int j = 0; j < n; ++j) {
        const int code = static_cast<int8_t>(NearestEvenInt(inverse * scales[j]));
        // Without any scale upstream stores zero bytes, which stand for -32.
        scale_codes[j] = static_cast<uint8_t>(largest != 0 ? std::clamp(code, -32, 31) + 32 : 0);
      }
      super_scale[s] = largest != 0 ? 1.0f / inverse : 0.0f;
    }
    out.scale[s] = RoundToF16(super_scale[s]);
    for (int j = 0; j < n; ++j) {
      sub.rounded_scale[s * n + j] = out.scale[s] * static_cast<float>(scale_codes[j] - 32);
    }
  }
  solver.round_to_scale(16, rows.x, sub.rounded_scale.data(), nullptr, -4, 3, sub.count, out.codes);
}

void QuantizeQ6_K(const Rows& rows, const Parts& out) {
  SubBlocks sub(rows, 16);
  const ScaleSearch& solver = BestScaleSearch();
  const int n = sub.per_super();
  std::vector<float> weights;
  if (rows.importance != nullptr) {
    for (int64_t r = 0; r < rows.count; ++r) {
      weights.insert(weights.end(), rows.importance, rows.importance + rows.cols);
    }
  }
  const ErrorWeight kind = weights.empty() ? ErrorWeight::kSquare : ErrorWeight::kGiven;
  solver.symmetric({16, 32, kind}, rows.x, weights.data(), sub.count, sub.scale.data(), out.codes);
  for (int64_t s = 0; s < sub.supers; ++s) {
    uint8_t* scale_codes = out.scale_codes + s * n;
    const float largest = LargestScale(&sub.scale[s * n], n);
    if (std::fabs(largest) < kTiny) {
      // All bytes zero, as upstream clears the block.
      std::memset(out.codes + s * kSuper, 0, kSuper);
      std::memset(scale_codes, 0, n);
      out.scale[s] = 0;
      std::fill_n(&sub.rounded_scale[s * n], n, 0.0f);
      continue;
    }
    const float inverse = -128.0f / largest;
    out.scale[s] = RoundToF16(1.0f / inverse);
    for (int j = 0; j < n; ++j) {
      const int code = std::min(127, NearestEvenInt(inverse * sub.scale[s * n + j]));
      scale_codes[j] = static_cast<uint8_t>(code);
      sub.rounded_scale[s * n + j] = out.scale[s] * static_cast<float>(static_cast<int8_t>(code));
    }
  }
  solver.round_to_scale(16, rows.x, sub.rounded_scale.data(), nullptr, -32, 31, sub.count,
                        out.codes);
}

}  // namespace

std::span<const BlockQuantizer> KQuantBlockQuantizers() {
  using Use = BlockQuantizer::Importance;
  static constexpr BlockQuantizer kQuantizers[] = {
      {GgmlType::kQ2_K, Use::kUsed, QuantizeQ2_K}, {GgmlType::kQ3_K, Use::kUsed, QuantizeQ3_K},
      {GgmlType::kQ4_K, Use::kUsed, QuantizeQ4_K}, {GgmlType::kQ5_K, Use::kUsed, QuantizeQ5_K},
      {GgmlType::kQ6_K, Use::kUsed, QuantizeQ6_K},
  };
  return kQuantizers;
}

}  // namespace quantd::gguf

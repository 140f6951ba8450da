// IQ1, IQ2 and IQ3: sub-blocks of 16 or 32 with points of a lattice; their scales are rounded
// together per 256 elements, to odd multiples of a common one.
#include <algorithm>

#include "quantizers/codecs/gguf/block_quantizer.h"
#include "quantizers/grids/ggml_lattices.h"
#include "quantizers/solvers/lattice_search.h"
#include "quantizers/solvers/positive_scales.h"
#include "quantizers/solvers/ternary_search.h"

namespace quantd::gguf {
namespace {

constexpr int kSuper = 256;

// Made at first use: up to some 10 ms.
template <const auto& kPoints, int kSize, int kBits, int kLevels, int kShells>
const Lattice& LatticeOf() {
  static const auto* const lattice = new Lattice(kPoints, kSize, kBits, kLevels, kShells);
  return *lattice;
}

// Where no importance is given.
enum class PlainWeight { kSquare, kSquarePlusVariance };

std::vector<float> Weights(const Rows& rows, float variance_factor, PlainWeight plain) {
  if (rows.importance != nullptr) return ImportanceWeights(rows, kSuper, variance_factor);
  std::vector<float> weights(rows.count * rows.cols);
  for (size_t begin = 0; begin < weights.size(); begin += kSuper) {
    const float* x = rows.x + begin;
    float sum = 0;
    for (int i = 0; i < kSuper; ++i) sum += x[i] * x[i];
    const float variance = variance_factor * sum / kSuper;
    const float base = plain == PlainWeight::kSquare ? 0.0f : 0.25f * variance;
    for (int i = 0; i < kSuper; ++i) weights[begin + i] = base + x[i] * x[i];
  }
  return weights;
}

// Codes of the scales (2 code + 1) * d of a super-block; the unrounded d.
float RoundToOddMultiples(const float* scales, int count, float divisor, int max_code,
                          uint8_t* codes) {
  const float d = *std::max_element(scales, scales + count) / divisor;
  const float inverse = d > 0 ? 1 / d : 0.0f;
  for (int b = 0; b < count; ++b) {
    const int code = d > 0 ? NearestEvenInt(0.5f * (inverse * scales[b] - 1)) : 0;
    codes[b] = static_cast<uint8_t>(std::clamp(code, 0, max_code));
  }
  return d;
}

struct LatticeType {
  LatticeSearch search;
  float variance_factor;
  PlainWeight plain;
  float d_factor;
  bool clears_empty;  // super-blocks without any scale lose their points as well
};

void QuantizeLattice(const LatticeType& type, const Rows& rows, const Parts& out) {
  const std::vector<float> weights = Weights(rows, type.variance_factor, type.plain);
  const Lattice& lattice = *type.search.lattice;
  const int size = type.search.block;
  const int n = kSuper / size;
  for (int64_t s = 0; s < rows.count * rows.cols / kSuper; ++s) {
    float scales[kSuper / 16];
    for (int b = 0; b < n; ++b) {
      const int64_t at = s * kSuper + b * size;
      scales[b] = SearchLattice(type.search, rows.x + at, &weights[at], out.codes + at);
    }
    const float d = RoundToOddMultiples(scales, n, 31, 15, out.scale_codes + s * n);
    out.scale[s] = RoundToF16(d * type.d_factor);
    if (d > 0 || !type.clears_empty) continue;
    for (int i = 0; i < kSuper; ++i) {
      out.codes[s * kSuper + i] = static_cast<uint8_t>(lattice.LevelOf(lattice.point(0), i));
    }
  }
}

using Refit = LatticeSearch::Refit;

void QuantizeIQ2_XXS(const Rows& rows, const Parts& out) {
  const Lattice& lattice = LatticeOf<kIq2XxsPoints, 8, 2, 3, 2>();
  QuantizeLattice(
      {{&lattice, 32, 6, 0.1f, 1e-15f, Refit::kAll, true, true}, 1, PlainWeight::kSquare, 1, true},
      rows, out);
}
void QuantizeIQ2_XS(const Rows& rows, const Parts& out) {
  const Lattice& lattice = LatticeOf<kIq2XsPoints, 8, 2, 3, 2>();
  QuantizeLattice({{&lattice, 16, 9, 0.1f, 1e-15f, Refit::kMoved, true, false},
                   1,
                   PlainWeight::kSquare,
                   1,
                   true},
                  rows, out);
}
void QuantizeIQ2_S(const Rows& rows, const Parts& out) {
  const Lattice& lattice = LatticeOf<kIq2SPoints, 8, 2, 3, 1>();
  QuantizeLattice({{&lattice, 16, 9, 0.1f, 1e-8f, Refit::kMoved, false, false},
                   2,
                   PlainWeight::kSquarePlusVariance,
                   0.9875f,
                   false},
                  rows, out);
}
void QuantizeIQ3_XXS(const Rows& rows, const Parts& out) {
  const Lattice& lattice = LatticeOf<kIq3XxsPoints, 4, 3, 8, 2>();
  QuantizeLattice({{&lattice, 32, 15, 0.2f, 1e-8f, Refit::kMoved, true, false},
                   2,
                   PlainWeight::kSquare,
                   1.0125f,
                   true},
                  rows, out);
}
void QuantizeIQ3_S(const Rows& rows, const Parts& out) {
  const Lattice& lattice = LatticeOf<kIq3SPoints, 4, 3, 8, 3>();
  QuantizeLattice({{&lattice, 32, 9, 0.2f, 0, Refit::kAllIfAnyMoved, false, false},
                   2,
                   PlainWeight::kSquare,
                   1.033f,
                   false},
                  rows, out);
}

const Lattice& Iq1Lattice() { return LatticeOf<kIq1Points, 8, 2, 3, 3>(); }

void ClearShifts(uint8_t* codes) {
  for (int i = 0; i < kSuper; ++i) codes[i] &= 3;
}

void QuantizeIQ1_S(const Rows& rows, const Parts& out) {
  constexpr int n = kSuper / 32;
  const std::vector<float> weights = Weights(rows, 2, PlainWeight::kSquare);
  for (int64_t s = 0; s < rows.count * rows.cols / kSuper; ++s) {
    float scales[n];
    for (int b = 0; b < n; ++b) {
      const int64_t at = s * kSuper + b * 32;
      scales[b] =
          SearchTernary32(Iq1Lattice(), 1e-12f, rows.x + at, &weights[at], out.codes + at).scale;
    }
    const float d = RoundToOddMultiples(scales, n, 15, 7, out.scale_codes + s * n);
    out.scale[s] = RoundToF16(d * 1.125f);
    if (!(d > 0)) ClearShifts(out.codes + s * kSuper);
  }
}

// The common scale of 16 sub-blocks whose codes and odd multiples are chosen, by least squares.
float FitIQ1_M(const float* x, const float* weights, const uint8_t* codes,
               const uint8_t* scale_codes, float d) {
  float sum_qx = 0, sum_q2 = 0;
  for (int i = 0; i < kSuper; ++i) {
    const float multiple = static_cast<float>(2 * scale_codes[i / 16] + 1);
    const float q = ShiftedTrits((codes[i] & 4) != 0)[codes[i] & 3] * multiple;
    sum_qx += weights[i] * q * x[i];
    sum_q2 += weights[i] * q * q;
  }
  return sum_q2 > 0 ? sum_qx / sum_q2 : d;
}

void QuantizeIQ1_M(const Rows& rows, const Parts& out) {
  constexpr int n = kSuper / 16;
  const std::vector<float> weights = Weights(rows, 2, PlainWeight::kSquare);
  for (int64_t s = 0; s < rows.count * rows.cols / kSuper; ++s) {
    float scales[n];
    uint8_t* codes = out.codes + s * kSuper;
    const float* x = rows.x + s * kSuper;
    const float* w = &weights[s * kSuper];
    for (int b = 0; b < n; ++b) {
      scales[b] =
          SearchTernary16(Iq1Lattice(), 1e-7f, x + b * 16, w + b * 16, codes + b * 16).scale;
    }
    const float d = RoundToOddMultiples(scales, n, 15, 7, out.scale_codes + s * n);
    if (d > 0) {
      out.scale[s] = RoundToF16(FitIQ1_M(x, w, codes, out.scale_codes + s * n, d) * 1.1125f);
    } else {
      out.scale[s] = 0;
      ClearShifts(codes);
    }
  }
}

}  // namespace

std::span<const BlockQuantizer> LatticeBlockQuantizers() {
  using Use = BlockQuantizer::Importance;
  static constexpr BlockQuantizer kQuantizers[] = {
      {GgmlType::kIQ2_XXS, Use::kRequired, QuantizeIQ2_XXS},
      {GgmlType::kIQ2_XS, Use::kRequired, QuantizeIQ2_XS},
      {GgmlType::kIQ2_S, Use::kUsed, QuantizeIQ2_S},
      {GgmlType::kIQ3_XXS, Use::kUsed, QuantizeIQ3_XXS},
      {GgmlType::kIQ3_S, Use::kUsed, QuantizeIQ3_S},
      {GgmlType::kIQ1_S, Use::kRequired, QuantizeIQ1_S},
      {GgmlType::kIQ1_M, Use::kUsed, QuantizeIQ1_M},
  };
  return kQuantizers;
}

}  // namespace quantd::gguf

#include "quantizers/solvers/fp8.h"

#include <algorithm>
#include <cmath>

#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

struct TileScale {
  float factor;  // weights are multiplied by it
  float scale;   // its reciprocal as stored
};

TileScale ScaleOf(float absmax, bool power_of_two) {
  constexpr float kLargest = 0x1.fffffep127f;
  const float factor = absmax > 0 ? std::min((1.0f / absmax) * kE4M3Max, kLargest) : 1.0f;
  const float scale = 1.0f / factor;
  if (!power_of_two) return {factor, scale};
  // torch takes the logarithm in float32, where a number just above a power of two rounds down to
  // it.
  const float logarithm =
      static_cast<float>(std::log2(static_cast<double>(std::max(scale, 0x1p-126f))));
  const float power = std::ldexp(1.0f, static_cast<int>(std::ceil(logarithm)));
  return {1.0f / power, power};
}

QuantizedTensor MakeFp8(const TensorView& weight, const BlockShape& block) {
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.block = block;
  out.grid = E4M3Grid();
  out.dequantized_dtype = weight.dtype;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  return out;
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeTilesFp8(const TensorView& weight, const BlockShape& tile,
                                                 bool power_of_two) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeFp8(weight, tile);
  const BlockLayout layout{out.rows, out.cols, out.block};
  std::vector<float> factors;
  for (const Range& range : BlockRanges(weight, layout)) {
    const TileScale tile_scale = ScaleOf(range.absmax(), power_of_two);
    factors.push_back(tile_scale.factor);
    out.scale.push_back(tile_scale.scale);
  }
  if (power_of_two) out.scale_dtype = DType::kF8E8M0;
  ForEachRun(weight, layout, [&](const Run& run) {
    const float factor = factors[run.block];
    uint8_t* codes = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      codes[i] = E4M3FromClamped(std::clamp(run.values[i] * factor, -kE4M3Max, kE4M3Max));
    }
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsFp8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeFp8(weight, {.rows = 1, .cols = 0});
  out.dequantized_dtype = DType::kBF16;
  const BlockLayout layout{out.rows, out.cols, out.block};
  for (const Range& range : BlockRanges(weight, layout)) {
    out.scale.push_back(std::max(range.absmax() / kE4M3Max, 1.0f / (kE4M3Max * 512.0f)));
  }
  ForEachRun(weight, layout, [&](const Run& run) {
    const float scale = out.scale[run.block];
    uint8_t* codes = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      codes[i] = E4M3FromClamped(std::clamp(run.values[i] / scale, -kE4M3Max, kE4M3Max));
    }
  });
  return out;
}

}  // namespace quantd

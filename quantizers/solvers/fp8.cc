#include "quantizers/solvers/fp8.h"

#include <algorithm>
#include <cmath>

#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/run_loops.h"

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
  out.follows_loaded_dtype = true;
  const BlockLayout layout{out.rows, out.cols, out.block};
  std::vector<float> factors;
  for (const Range& range : BlockRanges(weight, layout)) {
    const TileScale tile_scale = ScaleOf(range.absmax(), power_of_two);
    factors.push_back(tile_scale.factor);
    out.scale.push_back(tile_scale.scale);
  }
  if (power_of_two) out.scale_dtype = DType::kF8E8M0;
  ForEachRun(weight, layout, [&](const Run& run) {
    BestRunLoops().multiplied_e4m3(run.values, run.count, factors[run.block],
                                   out.codes.data() + run.first);
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsFp8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeFp8(weight, {.rows = 1, .cols = 0});
  out.dequantized_dtype = DType::kBF16;
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, layout, [&](const Run& run) {
    const float absmax = loops.range(run.values, run.count).absmax();
    const float scale = std::max(absmax / kE4M3Max, 1.0f / (kE4M3Max * 512.0f));
    out.scale[run.block] = scale;
    loops.In(DType::kF32)
        .divided_e4m3(run.values, run.count, scale, {}, out.codes.data() + run.first);
  });
  return out;
}

}  // namespace quantd

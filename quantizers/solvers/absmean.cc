#include "quantizers/solvers/absmean.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {

absl::StatusOr<float> AbsMeanOf(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  std::vector<float> magnitudes(static_cast<size_t>(weight.elements()));
  ForEachRun(weight, {weight.shape[0], weight.shape[1], {}}, [&](const Run& run) {
    for (int64_t i = 0; i < run.count; ++i) {
      magnitudes[run.first + i] = std::fabs(run.values[i]);
    }
  });
  float mean = TorchMean(magnitudes);
  if (!std::isfinite(mean)) {
    const double sum = std::accumulate(magnitudes.begin(), magnitudes.end(), 0.0);
    mean = static_cast<float>(sum / static_cast<double>(magnitudes.size()));
  }
  return std::max(mean, 1e-5f);
}

absl::StatusOr<QuantizedTensor> QuantizeTernary(const TensorView& weight, float absmean) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(2, /*is_signed=*/false);
  out.grid.first = -1;
  out.block = {.rows = 0, .cols = 0};
  const float steps = 1.0f / absmean;
  out.scale = {1.0f / steps};
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  ForEachRun(weight, {out.rows, out.cols, out.block}, [&](const Run& run) {
    uint8_t* codes = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      const float value = std::clamp(run.values[i] * steps, -1.0f, 1.0f);
      codes[i] = static_cast<uint8_t>(static_cast<int>(RoundHalfEven(value)) + 1);
    }
  });
  return out;
}

}  // namespace quantd

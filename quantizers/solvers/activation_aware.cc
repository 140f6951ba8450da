#include "quantizers/solvers/activation_aware.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/solvers/activation_aware_rounding.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/half_products.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

float Half(float value) { return InFloat16::Round(value); }

// Calls body(row, first column) for every group, in parallel over rows.
template <class Body>
void ForEachGroup(const HalfMatrix& weight, int64_t group, const Body& body) {
  ParallelFor(weight.rows, [&](int64_t row) {
    for (int64_t col = 0; col < weight.cols; col += group) body(row, col);
  });
}

// X W^T in float32, every output rounded: [tokens, rows].
std::vector<float> Outputs(std::span<const float> samples, const HalfMatrix& weight) {
  constexpr int kLanes = 16;
  const int64_t tokens = static_cast<int64_t>(samples.size()) / weight.cols;
  std::vector<float> out(static_cast<size_t>(tokens * weight.rows));
  ParallelFor(weight.rows, [&](int64_t row) {
    const float* w = weight.row(row);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* x = samples.data() + t * weight.cols;
      float lanes[kLanes] = {};
      int64_t i = 0;
      for (; i + kLanes <= weight.cols; i += kLanes) {
        for (int k = 0; k < kLanes; ++k) lanes[k] += x[i + k] * w[i + k];
      }
      for (int k = 0; i < weight.cols; ++i, ++k) lanes[k] += x[i] * w[i];
      float sum = 0;
      for (const float lane : lanes) sum += lane;
      out[t * weight.rows + row] = Half(sum);
    }
  });
  return out;
}

double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = Half(a[i] - b[i]);
    sum += difference * difference;
  }
  return sum;
}

}  // namespace

absl::Status CheckAwqSamples(std::span<const float> samples, int64_t cols) {
  if (!samples.empty() && static_cast<int64_t>(samples.size()) % cols == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("AWQ needs inputs of calibration tokens: found ",
                                                 samples.size(), " values for ", cols, " columns"));
}

absl::StatusOr<HalfMatrix> ToHalfMatrix(const TensorView& tensor) {
  RETURN_IF_ERROR(CheckWeight(tensor));
  HalfMatrix out = {tensor.shape[0], tensor.shape[1], {}};
  out.values.resize(static_cast<size_t>(out.rows * out.cols));
  std::atomic<bool> finite = true;
  ParallelFor(out.rows, [&](int64_t row) {
    float* values = out.values.data() + row * out.cols;
    LoadFloats(tensor, row * out.cols, out.cols, values);
    for (int64_t i = 0; i < out.cols; ++i) {
      values[i] = Half(values[i]);
      if (!std::isfinite(values[i])) finite = false;
    }
  });
  if (finite) return out;
  return absl::InvalidArgumentError(
      "the matrix has weights beyond the range of float16, in which AWQ computes");
}

absl::StatusOr<QuantizedTensor> QuantizeAwq(const HalfMatrix& weight, const AwqSpec& spec) {
  const int64_t group = spec.GroupOf(weight.cols);
  QuantizedTensor out;
  out.rows = weight.rows;
  out.cols = weight.cols;
  out.dequantized_dtype = DType::kF16;
  out.scale_dtype = DType::kF16;
  out.grid = UniformGrid(spec.bits, /*is_signed=*/!spec.zero_point);
  out.block = {.rows = 1, .cols = group};
  out.codes.resize(weight.values.size());
  out.scale.resize(static_cast<size_t>(out.block_count()));
  if (spec.zero_point) out.zero_point.resize(out.scale.size());
  ForEachGroup(weight, group, [&](int64_t row, int64_t col) {
    const float* values = weight.row(row) + col;
    const AwqRounding rounding(RangeOf(values, group), spec);
    const int64_t block = out.block_of(row, col);
    out.scale[block] = rounding.scale;
    if (spec.zero_point) out.zero_point[block] = rounding.zero;
    uint8_t* codes = out.codes.data() + row * weight.cols + col;
    for (int64_t i = 0; i < group; ++i) {
      codes[i] = static_cast<uint8_t>(rounding.Code(values[i]) - rounding.least);
    }
  });
  for (size_t i = 0; i < out.scale.size(); ++i) {
    if (std::isfinite(out.scale[i])) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the range of group ", i, " is beyond float16, in which AWQ computes"));
  }
  return out;
}

void ApplyClip(const AwqSpec& spec, std::span<const float> limits, HalfMatrix* weight) {
  const int64_t group = spec.GroupOf(weight->cols);
  ForEachGroup(*weight, group, [&](int64_t row, int64_t col) {
    const float limit = limits[(row * weight->cols + col) / group];
    float* values = weight->values.data() + row * weight->cols + col;
    for (int64_t i = 0; i < group; ++i) values[i] = std::clamp(values[i], -limit, limit);
  });
}

std::vector<float> AwqColumnMagnitude(std::span<const HalfMatrix* const> weights,
                                      const AwqSpec& spec) {
  const int64_t cols = weights.front()->cols;
  const int64_t group = spec.GroupOf(cols);
  int64_t rows = 0;
  for (const HalfMatrix* weight : weights) rows += weight->rows;
  std::vector<float> mean(static_cast<size_t>(cols));
  ParallelFor(cols / group, [&](int64_t g) {
    std::vector<double> sums(static_cast<size_t>(group));
    for (const HalfMatrix* weight : weights) {
      for (int64_t row = 0; row < weight->rows; ++row) {
        const float* values = weight->row(row) + g * group;
        float largest = 0;
        for (int64_t i = 0; i < group; ++i) largest = std::max(largest, std::abs(values[i]));
        const float divisor = Half(largest + 1e-6f);
        for (int64_t i = 0; i < group; ++i) sums[i] += Half(std::abs(values[i]) / divisor);
      }
    }
    for (int64_t i = 0; i < group; ++i) {
      mean[g * group + i] = Half(static_cast<float>(sums[i] / static_cast<double>(rows)));
    }
  });
  return mean;
}

std::vector<float> AwqFactors(std::span<const float> mean_magnitude,
                              std::span<const float> column_magnitude, int step, bool duo_scaling) {
  const double ratio = step / double{kAwqRatios};
  // torch rounds the exponent to float16, too. Powers in double: their last bits differ between
  // processors, but float16 does not see them.
  const auto power = [](float base, double exponent) {
    const double rounded = Half(static_cast<float>(exponent));
    return Half(static_cast<float>(std::pow(static_cast<double>(base), rounded)));
  };
  std::vector<float> factors(mean_magnitude.size());
  for (size_t i = 0; i < factors.size(); ++i) {
    float factor = power(Half(mean_magnitude[i]), ratio);
    if (duo_scaling) {
      factor = Half(factor / Half(power(column_magnitude[i], 1 - ratio) + 1e-4f));
    }
    factors[i] = std::max(factor, Half(1e-4f));
  }
  const auto [min, max] = std::minmax_element(factors.begin(), factors.end());
  const float middle = Half(std::sqrt(Half(*max * *min)));
  for (float& factor : factors) {
    factor = Half(factor / middle);
    if (!std::isfinite(factor)) factor = 1;
  }
  return factors;
}

HalfMatrix QuantizedWithFactors(const HalfMatrix& weight, const AwqSpec& spec,
                                std::span<const float> factors) {
  const int64_t group = spec.GroupOf(weight.cols);
  const HalfProducts& loops = BestHalfProducts();
  HalfMatrix out = weight;
  ForEachGroup(weight, group, [&](int64_t row, int64_t col) {
    float* values = out.values.data() + row * out.cols + col;
    const float* factor = factors.data() + col;
    loops.multiply(factor, group, values);
    loops.round(AwqRounding(RangeOf(values, group), spec), group, values);
    loops.divide(factor, group, values);
  });
  return out;
}

void ScaleColumns(std::span<const float> factors, HalfMatrix* weight) {
  ParallelFor(weight->rows, [&](int64_t row) {
    BestHalfProducts().multiply(factors.data(), weight->cols,
                                weight->values.data() + row * weight->cols);
  });
}

absl::StatusOr<std::vector<float>> SearchFactors(const HalfMatrix& weight, const AwqSpec& spec,
                                                 std::span<const float> samples, bool duo_scaling) {
  RETURN_IF_ERROR(CheckAwqSamples(samples, weight.cols));
  const int64_t tokens = static_cast<int64_t>(samples.size()) / weight.cols;
  std::vector<float> magnitude(static_cast<size_t>(weight.cols));
  for (int64_t i = 0; i < weight.cols; ++i) {
    double sum = 0;
    for (int64_t t = 0; t < tokens; ++t) sum += std::abs(samples[t * weight.cols + i]);
    magnitude[i] = static_cast<float>(sum / static_cast<double>(tokens));
  }
  const HalfMatrix* const weights[] = {&weight};
  const std::vector<float> columns = AwqColumnMagnitude(weights, spec);
  const std::vector<float> reference = Outputs(samples, weight);
  std::vector<float> best;
  double least = std::numeric_limits<double>::infinity();
  for (int step = 0; step < kAwqRatios; ++step) {
    std::vector<float> factors = AwqFactors(magnitude, columns, step, duo_scaling);
    const double loss =
        SquaredDistance(reference, Outputs(samples, QuantizedWithFactors(weight, spec, factors)));
    if (!(loss < least)) continue;
    least = loss;
    best = std::move(factors);
  }
  if (!best.empty()) return best;
  return absl::InvalidArgumentError("no column factors give finite outputs in float16");
}

}  // namespace quantd

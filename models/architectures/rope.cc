#include "models/architectures/rope.h"

#include <cmath>
#include <numbers>

#include "core/parallel.h"

namespace quantd {
namespace {

// Llama 3.1: long wavelengths are stretched by `factor`, short ones kept, those between blended.
double ScaleLlama3(double frequency, const RopeScaling& scaling) {
  const double original = static_cast<double>(scaling.original_max_positions);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength < original / scaling.high_freq_factor) return frequency;
  if (wavelength > original / scaling.low_freq_factor) return frequency / scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - smooth) * frequency / scaling.factor + smooth * frequency;
}

double Scale(double frequency, const RopeScaling& scaling) {
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kLongRope:
      return frequency;
    case RopeScaling::Kind::kLinear:
      return frequency / scaling.factor;
    case RopeScaling::Kind::kLlama3:
      return ScaleLlama3(frequency, scaling);
  }
  return frequency;
}

// What divides the frequencies; empty: nothing.
const std::vector<float>& DivisorsOf(const RopeScaling& scaling, int64_t positions) {
  if (scaling.kind != RopeScaling::Kind::kLongRope) return scaling.frequency_divisors;
  return positions > scaling.original_max_positions ? scaling.long_factors : scaling.short_factors;
}

}  // namespace

std::vector<double> RopeFrequencies(const ModelConfig& config, int64_t positions) {
  const int64_t dims = config.rotary_dims();
  const std::vector<float>& divisors = DivisorsOf(config.rope_scaling, positions);
  std::vector<double> frequencies(static_cast<size_t>(dims / 2));
  for (int64_t i = 0; i < dims / 2; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(dims);
    const double frequency = std::pow(config.rope_theta, -exponent);
    frequencies[i] =
        divisors.empty() ? Scale(frequency, config.rope_scaling) : frequency / divisors[i];
  }
  return frequencies;
}

std::vector<float> RopeTable(const ModelConfig& config, int64_t positions) {
  const std::vector<double> frequencies = RopeFrequencies(config, positions);
  const double factor = config.rope_scaling.attention_factor;
  const size_t half = frequencies.size();
  std::vector<float> table(static_cast<size_t>(positions) * half * 2);
  ParallelFor(positions, [&](int64_t position) {
    float* row = table.data() + position * half * 2;
    for (size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[i];
      row[i] = static_cast<float>(std::cos(angle) * factor);
      row[half + i] = static_cast<float>(std::sin(angle) * factor);
    }
  });
  return table;
}

}  // namespace quantd

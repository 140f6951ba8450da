#include "models/calibration/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "core/parallel.h"

namespace quantd::calibration {
namespace {

constexpr int kLanes = 16;  // partial sums of a row, added in order: part of the result

template <class Term>
double Sum(int64_t n, const Term& term) {
  double lanes[kLanes] = {};
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int k = 0; k < kLanes; ++k) lanes[k] += term(i + k);
  }
  for (int64_t i = whole; i < n; ++i) lanes[i - whole] += term(i);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
float Tanh(float x) { return 1.0f - 2.0f / (Exp(2.0f * x) + 1.0f); }

// Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
float Erf(float x) {
  const float a = std::fabs(x);
  const float t = 1.0f / (1.0f + 0.3275911f * a);
  float p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const float y = 1.0f - p * t * Exp(-a * a);
  return x < 0 ? -y : y;
}

constexpr float kGeluScale = 1.5957691216f;  // 2 sqrt(2/pi)

float ActivateOne(Activation activation, float x) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5f * x * (1.0f + Erf(x * 0.70710678f));
    case Activation::kGeluTanh:
      return x * Sigmoid(kGeluScale * (x + 0.044715f * x * x * x));
    case Activation::kRelu:
      return std::max(x, 0.0f);
    case Activation::kSilu:
    case Activation::kSiluMul:
      return x * Sigmoid(x);
    case Activation::kTanh:
      return Tanh(x);
    case Activation::kNone:
      break;
  }
  return x;
}

float DerivativeAt(Activation activation, float x) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5f * (1.0f + Erf(x * 0.70710678f)) + x * 0.39894228f * Exp(-0.5f * x * x);
    case Activation::kGeluTanh: {
      const float s = Sigmoid(kGeluScale * (x + 0.044715f * x * x * x));
      return s + x * s * (1.0f - s) * kGeluScale * (1.0f + 0.134145f * x * x);
    }
    case Activation::kRelu:
      return x > 0 ? 1.0f : 0.0f;
    case Activation::kSilu:
    case Activation::kSiluMul: {
      const float s = Sigmoid(x);
      return s * (1.0f + x * (1.0f - s));
    }
    case Activation::kTanh: {
      const float t = Tanh(x);
      return 1.0f - t * t;
    }
    case Activation::kNone:
      break;
  }
  return 1.0f;
}

struct Moments {
  float mean, factor;  // factor: 1 / sqrt(variance + epsilon)
};

Moments MomentsOf(const RowNormArgs& norm, const float* x, int64_t n) {
  const double mean =
      norm.is_layer_norm ? Sum(n, [x](int64_t i) -> double { return x[i]; }) / n : 0.0;
  const double variance = Sum(n,
                              [x, mean](int64_t i) {
                                const double d = x[i] - mean;
                                return d * d;
                              }) /
                          n;
  return {static_cast<float>(mean),
          static_cast<float>(1 / std::sqrt(variance + static_cast<double>(norm.epsilon)))};
}

}  // namespace

float Exp(float value) {
  const float x = std::max(std::min(value, 88.0f), -87.0f);
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = x * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t steps = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(magic);
  const float result = std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (steps << 23));
  return std::isnan(value) ? value : result;
}

void Activate(Activation activation, const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = ActivateOne(activation, x[i]);
}

void MultiplyByDerivative(Activation activation, const float* x, int64_t n, float* d) {
  for (int64_t i = 0; i < n; ++i) d[i] *= DerivativeAt(activation, x[i]);
}

void NormalizeRow(const RowNormArgs& norm, const float* x, int64_t n, float* y) {
  const Moments moments = MomentsOf(norm, x, n);
  for (int64_t i = 0; i < n; ++i) {
    y[i] = (x[i] - moments.mean) * moments.factor * norm.weight[i];
    if (norm.bias != nullptr) y[i] += norm.bias[i];
  }
}

void AddNormGradient(const RowNormArgs& norm, const float* x, const float* dy, int64_t n,
                     float* dx) {
  const Moments m = MomentsOf(norm, x, n);
  const auto hat = [x, m](int64_t i) -> double { return (x[i] - m.mean) * m.factor; };
  const auto g = [dy, &norm](int64_t i) -> double {
    return static_cast<double>(dy[i]) * norm.weight[i];
  };
  const double mean = norm.is_layer_norm ? Sum(n, g) / n : 0.0;
  const double along = Sum(n, [&](int64_t i) { return g(i) * hat(i); }) / n;
  for (int64_t i = 0; i < n; ++i) {
    dx[i] += static_cast<float>(m.factor * (g(i) - mean - hat(i) * along));
  }
}

void AddNormParameterGradients(const RowNormArgs& norm, int64_t rows, const float* x,
                               const float* dy, int64_t n, float* weight, float* bias) {
  constexpr int64_t kTask = 64;  // columns, or rows
  std::vector<Moments> moments(static_cast<size_t>(rows));
  ParallelFor((rows + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t end = std::min(rows, (task + 1) * kTask);
    for (int64_t r = task * kTask; r < end; ++r) moments[r] = MomentsOf(norm, x + r * n, n);
  });
  ParallelFor((n + kTask - 1) / kTask, [&](int64_t task) {
    const int64_t first = task * kTask, count = std::min(kTask, n - first);
    double along[kTask] = {}, sum[kTask] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const Moments& m = moments[r];
      const float* row = x + r * n + first;
      const float* gradient = dy + r * n + first;
      for (int64_t i = 0; i < count; ++i) {
        along[i] += gradient[i] * ((row[i] - m.mean) * m.factor);
        sum[i] += gradient[i];
      }
    }
    for (int64_t i = 0; i < count; ++i) {
      weight[first + i] += static_cast<float>(along[i]);
      if (bias != nullptr) bias[first + i] += static_cast<float>(sum[i]);
    }
  });
}

void SoftmaxRow(float* x, int64_t n) {
  const float top = *std::max_element(x, x + n);
  for (int64_t i = 0; i < n; ++i) x[i] = Exp(x[i] - top);
  const float inverse = static_cast<float>(1 / Sum(n, [x](int64_t i) -> double { return x[i]; }));
  for (int64_t i = 0; i < n; ++i) x[i] *= inverse;
}

}  // namespace quantd::calibration

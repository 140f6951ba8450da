#include "models/calibration/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace quantd::calibration {
namespace {

constexpr int kLanes = 16;  // partial sums of a row, added in order: part of the result
constexpr float kGeluScale = 1.5957691216f;  // 2 sqrt(2/pi)

struct Moments {
  float mean, factor;  // factor: 1 / sqrt(variance + epsilon)
};

constexpr int kActivations = 6;
struct RowLoops {
  void (*activate[kActivations])(const float* x, int64_t n, float* y);
  void (*multiply_by_derivative[kActivations])(const float* x, int64_t n, float* d);
  void (*normalize)(const RowNormArgs& norm, const float* x, int64_t n, float* y);
  void (*softmax)(float* x, int64_t n);
};

int IndexOf(Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return 1;
    case Activation::kGeluTanh:
      return 2;
    case Activation::kRelu:
      return 3;
    case Activation::kSilu:
    case Activation::kSiluMul:
      return 4;
    case Activation::kTanh:
      return 5;
    case Activation::kNone:
      break;
  }
  return 0;
}

namespace baseline {
#include "models/calibration/row_math_loops.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
#include "models/calibration/row_math_loops.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
#include "models/calibration/row_math_loops.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

const RowLoops& Loops() {
  static const RowLoops& loops = [&]() -> const RowLoops& {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vnni")) {
      return avx512::kLoops;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return avx2::kLoops;
#endif
    return baseline::kLoops;
  }();
  return loops;
}

}  // namespace

void Activate(Activation activation, const float* x, int64_t n, float* y) {
  Loops().activate[IndexOf(activation)](x, n, y);
}

void MultiplyByDerivative(Activation activation, const float* x, int64_t n, float* d) {
  Loops().multiply_by_derivative[IndexOf(activation)](x, n, d);
}

void NormalizeRow(const RowNormArgs& norm, const float* x, int64_t n, float* y) {
  Loops().normalize(norm, x, n, y);
}

void SoftmaxRow(float* x, int64_t n) { Loops().softmax(x, n); }

void AddNormGradient(const RowNormArgs& norm, const float* x, const float* dy, int64_t n,
                     float* dx) {
  const Moments m = baseline::MomentsOf(norm, x, n);
  const auto hat = [x, m](int64_t i) -> double { return (x[i] - m.mean) * m.factor; };
  const auto g = [dy, &norm](int64_t i) -> double {
    return static_cast<double>(dy[i]) * norm.weight[i];
  };
  const double mean = norm.is_layer_norm ? baseline::Sum(n, g) / n : 0.0;
  const double along = baseline::Sum(n, [&](int64_t i) { return g(i) * hat(i); }) / n;
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
    for (int64_t r = task * kTask; r < end; ++r)
      moments[r] = baseline::MomentsOf(norm, x + r * n, n);
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

}  // namespace quantd::calibration

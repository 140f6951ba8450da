#include "models/calibration/row_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/instruction_set.h"

namespace quantd::calibration {
namespace {

constexpr int64_t kLanes = kRowLanes;  // partial sums of a row, added in order: part of the result
constexpr float kGeluScale = 1.5957691216f;  // 2 sqrt(2/pi)

struct Moments {
  float mean, factor;  // factor: 1 / sqrt(variance + epsilon)
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

#define QUANTD_LOOPS "models/calibration/row_math_loops.inc"
#include "kernels/cpu/every_isa.inc"

const RowLoops& Loops() { return VariantsOfThisCpu().best(); }

}  // namespace

const RowLoops* const* AllRowLoops() { return VariantsOfThisCpu().all(); }

void ActivateRow(Activation activation, const float* gate, const float* up, int64_t n,
                 float* hidden) {
  Loops().activate[IndexOf(activation)](gate, up, n, hidden);
}

void ActivationGradient(Activation activation, const float* gate, const float* up, int64_t n,
                        float* d_gate, float* d_up) {
  Loops().gradient[IndexOf(activation)](gate, up, n, d_gate, d_up);
}

void NormalizeRow(const RowNormArgs& norm, const float* x, int64_t n, float* y) {
  Loops().normalize(norm, x, n, y);
}

void AddNormGradient(const RowNormArgs& norm, const float* x, const float* dy, int64_t n,
                     float* dx) {
  Loops().norm_gradient(norm, x, dy, n, dx);
}

SoftmaxTerms SoftmaxRow(float scale, float* x, int64_t n) { return Loops().softmax(scale, x, n); }

void SoftmaxRow(float scale, const SoftmaxTerms& terms, float* x, int64_t n) {
  Loops().softmax_again(scale, terms, x, n);
}

float DotRow(const float* a, const float* b, int64_t n) { return Loops().dot(a, b, n); }

void ScoreGradientRow(float scale, const float* weights, float mean, int64_t n, float* d) {
  Loops().score_gradient(scale, weights, mean, n, d);
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

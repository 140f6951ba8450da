// Row functions of a block and their derivatives in plain float32. The model's own kernels are
// faster, but round as the instruction set does; what decides about quantized bytes must not.
#ifndef QUANTD_MODELS_CALIBRATION_ROW_MATH_H_
#define QUANTD_MODELS_CALIBRATION_ROW_MATH_H_

#include <algorithm>
#include <cstdint>

#include "core/parallel.h"
#include "kernels/backend.h"

namespace quantd::calibration {

// body(first, count) over slices of rows, in parallel.
template <class Body>
void ForRows(int64_t rows, const Body& body) {
  constexpr int64_t kRows = 32;
  constexpr double kSeconds = 1e-5;  // of a slice, about
  const auto slice = [&](int64_t task) {
    const int64_t first = task * kRows;
    body(first, std::min(kRows, rows - first));
  };
  ParallelFor((rows + kRows - 1) / kRows, slice, kSeconds);
}

// y = activation(x), elementwise; kNone, kGelu, kGeluTanh, kRelu, kSilu or kTanh.
void Activate(Activation activation, const float* x, int64_t n, float* y);
// d[i] *= the derivative of the activation at x[i].
void MultiplyByDerivative(Activation activation, const float* x, int64_t n, float* d);

// weight (and bias, of a layer norm) have n entries, as have x and y.
struct RowNormArgs {
  bool is_layer_norm = false;  // else RMS
  const float* weight = nullptr;
  const float* bias = nullptr;  // or null
  float epsilon = 0;
};
void NormalizeRow(const RowNormArgs& norm, const float* x, int64_t n, float* y);
// dx[i] += d loss / d x[i], of the norm's input, from dy, the gradient of its output.
void AddNormGradient(const RowNormArgs& norm, const float* x, const float* dy, int64_t n,
                     float* dx);

// weight[i] and bias[i] (or null) += their d loss / d parameter, from the rows x [rows, n] that the
// norm read and dy, the gradients of its outputs. In parallel.
void AddNormParameterGradients(const RowNormArgs& norm, int64_t rows, const float* x,
                               const float* dy, int64_t n, float* weight, float* bias);

// Turns scores into weights: e^(x - max) / sum.
void SoftmaxRow(float* x, int64_t n);

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_ROW_MATH_H_

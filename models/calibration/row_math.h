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

// hidden = activation(gate) * up, elementwise; `up` may be null: without it. kNone, kGelu,
// kGeluTanh, kRelu, kSilu or kTanh.
void ActivateRow(Activation activation, const float* gate, const float* up, int64_t n,
                 float* hidden);
// `d_gate` holds the gradient of `hidden` and becomes that of `gate`; d_up (with `up` only) is set.
void ActivationGradient(Activation activation, const float* gate, const float* up, int64_t n,
                        float* d_gate, float* d_up);

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

// What makes weights of the scores of one query: 2^(scale * score / ln 2 - top) * inverse.
struct SoftmaxTerms {
  float top, inverse;
};
inline constexpr int64_t kRowLanes = 16;
// Turns scores into weights that sum to 1. `scale` is positive; the entries behind x[n], up to a
// multiple of kRowLanes, become 0.
SoftmaxTerms SoftmaxRow(float scale, float* x, int64_t n);
// The same weights again.
void SoftmaxRow(float scale, const SoftmaxTerms& terms, float* x, int64_t n);
// The sum of a[i] * b[i].
float DotRow(const float* a, const float* b, int64_t n);
// d = (d - mean) * weights * scale: gradients of weights become those of scores.
void ScoreGradientRow(float scale, const float* weights, float mean, int64_t n, float* d);

// The loops of one instruction set under the functions above, which take the best. All give the
// same bits.
inline constexpr int kRowActivations = 6;  // in the order above
struct RowLoops {
  const char* isa;
  void (*activate[kRowActivations])(const float* gate, const float* up, int64_t n, float* hidden);
  void (*gradient[kRowActivations])(const float* gate, const float* up, int64_t n, float* d_gate,
                                    float* d_up);
  void (*normalize)(const RowNormArgs& norm, const float* x, int64_t n, float* y);
  void (*norm_gradient)(const RowNormArgs& norm, const float* x, const float* dy, int64_t n,
                        float* dx);
  SoftmaxTerms (*softmax)(float scale, float* x, int64_t n);
  void (*softmax_again)(float scale, const SoftmaxTerms& terms, float* x, int64_t n);
  float (*dot)(const float* a, const float* b, int64_t n);
  void (*score_gradient)(float scale, const float* weights, float mean, int64_t n, float* d);
};
// Those that this processor runs, the best last; null-terminated.
const RowLoops* const* AllRowLoops();

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_ROW_MATH_H_

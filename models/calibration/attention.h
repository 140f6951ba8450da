// Softmax attention of one sequence, forward and backward, in plain float32.
#ifndef QUANTD_MODELS_CALIBRATION_ATTENTION_H_
#define QUANTD_MODELS_CALIBRATION_ATTENTION_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "core/float_buffer.h"
#include "kernels/rounded_product.h"

namespace quantd::calibration {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool causal = true;
  // What operands of products are rounded to, for training; none: float32.
  std::optional<ProductRounding> rounding;
};

// Rotates the pairs (i, i + rotary/2) of the first `rotary` dimensions of every head of x [tokens,
// heads * head_dim] by the angles of its position; `table` [>= tokens, rotary] holds cosines, then
// sines. `inverse`: the other way, as gradients pass.
void Rotate(const std::vector<float>& table, int64_t rotary, int64_t tokens, int64_t heads,
            int64_t head_dim, bool inverse, float* x);

// out [tokens, heads * head_dim] = softmax(q k^T / sqrt(head_dim)) v of q, and k and v of kv_heads,
// as they are. `softmax` [heads, tokens, 2] gets the terms of every query's weights (SoftmaxTerms).
void Attend(const AttentionShape& shape, int64_t tokens, const float* q, const float* k,
            const float* v, float* out, float* softmax);

// What Attend read and made.
struct AttentionPass {
  const float *q, *k, *v, *out, *softmax;
};
// Gradients of keys and values by the heads that read them: memory that calls use again.
struct AttentionSums {
  FloatBuffer keys, values;
};
// Gradients of q, k and v (all of them set) from `d_out`, the gradient of `out`.
void AttendBackward(const AttentionShape& shape, int64_t tokens, const AttentionPass& pass,
                    const float* d_out, AttentionSums& sums, float* d_q, float* d_k, float* d_v);

}  // namespace quantd::calibration

#endif  // QUANTD_MODELS_CALIBRATION_ATTENTION_H_

#include "models/calibration/attention.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "kernels/bfloat16_product.h"
#include "kernels/matrix_product.h"
#include "models/calibration/row_math.h"

namespace quantd::calibration {
namespace {

constexpr int64_t kQueries = 128;  // queries of one head that are worked on at once

// C += A B as the shape says.
decltype(&AddMatrixProduct) Product(const AttentionShape& shape) {
  return shape.bfloat16 ? AddBFloat16Product : AddMatrixProduct;
}

int64_t KeysFor(const AttentionShape& shape, int64_t tokens, int64_t end) {
  return shape.causal ? end : tokens;
}

// weights [count, keys]: softmax of the queries [first, first + count) of one head.
void Weights(const AttentionShape& shape, const float* q, int64_t q_stride, const float* k,
             int64_t k_stride, int64_t first, int64_t count, int64_t keys,
             std::vector<float>& weights) {
  weights.assign(static_cast<size_t>(count * keys), 0.0f);
  Product(shape)(count, keys, shape.head_dim, {q + first * q_stride, q_stride, 1},
                 MatrixOperand{k, k_stride, 1}.Transposed(), weights.data(), keys);
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(shape.head_dim)));
  for (int64_t i = 0; i < count; ++i) {
    float* row = weights.data() + i * keys;
    const int64_t visible = shape.causal ? first + i + 1 : keys;
    for (int64_t j = 0; j < visible; ++j) row[j] *= scale;
    SoftmaxRow(row, visible);
    std::fill(row + visible, row + keys, 0.0f);
  }
}

}  // namespace

void Rotate(const std::vector<float>& table, int64_t tokens, int64_t heads, int64_t head_dim,
            bool inverse, float* x) {
  const int64_t half = head_dim / 2;
  ParallelFor(tokens, [&](int64_t t) {
    const float* cosines = table.data() + t * head_dim;
    const float* sines = cosines + half;
    for (int64_t h = 0; h < heads; ++h) {
      float* pair = x + (t * heads + h) * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const float a = pair[i], b = pair[half + i], s = inverse ? -sines[i] : sines[i];
        pair[i] = a * cosines[i] - b * s;
        pair[half + i] = b * cosines[i] + a * s;
      }
    }
  });
}

void Attend(const AttentionShape& shape, int64_t tokens, const float* q, const float* k,
            const float* v, float* out) {
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads;
  const int64_t q_stride = shape.heads * dim, k_stride = shape.kv_heads * dim;
  const int64_t blocks = (tokens + kQueries - 1) / kQueries;
  const auto attend = [&](int64_t task) {
    thread_local std::vector<float> weights;
    const int64_t head = task / blocks, first = task % blocks * kQueries;
    const int64_t count = std::min(kQueries, tokens - first);
    const int64_t keys = KeysFor(shape, tokens, first + count);
    const int64_t kv = head / group * dim;
    Weights(shape, q + head * dim, q_stride, k + kv, k_stride, first, count, keys, weights);
    float* to = out + first * q_stride + head * dim;
    for (int64_t i = 0; i < count; ++i) std::fill_n(to + i * q_stride, dim, 0.0f);
    Product(shape)(count, dim, keys, {weights.data(), keys, 1}, {v + kv, k_stride, 1}, to,
                   q_stride);
  };
  // Two products and a softmax.
  const auto multiplications = static_cast<double>(2 * kQueries * tokens * (dim + 16));
  ParallelFor(shape.heads * blocks, attend, multiplications / 2e10);
}

namespace {

// One head's part: d_q in place, d_k and d_v [tokens, head_dim] without gaps.
void HeadBackward(const AttentionShape& shape, int64_t tokens, int64_t head, const float* q,
                  const float* k, const float* v, const float* out, const float* d_out, float* d_q,
                  float* d_k, float* d_v) {
  const int64_t dim = shape.head_dim, kv = head / (shape.heads / shape.kv_heads) * dim;
  const int64_t q_stride = shape.heads * dim, k_stride = shape.kv_heads * dim;
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(dim)));
  thread_local std::vector<float> weights, d_scores;
  for (int64_t first = 0; first < tokens; first += kQueries) {
    const int64_t count = std::min(kQueries, tokens - first);
    const int64_t keys = KeysFor(shape, tokens, first + count);
    const int64_t at = first * q_stride + head * dim;
    Weights(shape, q + head * dim, q_stride, k + kv, k_stride, first, count, keys, weights);
    Product(shape)(keys, dim, count, MatrixOperand{weights.data(), keys, 1}.Transposed(),
                   {d_out + at, q_stride, 1}, d_v, dim);
    d_scores.assign(static_cast<size_t>(count * keys), 0.0f);
    Product(shape)(count, keys, dim, {d_out + at, q_stride, 1},
                   MatrixOperand{v + kv, k_stride, 1}.Transposed(), d_scores.data(), keys);
    for (int64_t i = 0; i < count; ++i) {
      double sum = 0;  // of the weights' gradients under the weights
      for (int64_t d = 0; d < dim; ++d) {
        sum += static_cast<double>(out[at + i * q_stride + d]) * d_out[at + i * q_stride + d];
      }
      const auto mean = static_cast<float>(sum);
      float* d_row = d_scores.data() + i * keys;
      const float* row = weights.data() + i * keys;
      for (int64_t j = 0; j < keys; ++j) d_row[j] = (d_row[j] - mean) * row[j] * scale;
    }
    Product(shape)(count, dim, keys, {d_scores.data(), keys, 1}, {k + kv, k_stride, 1}, d_q + at,
                   q_stride);
    Product(shape)(keys, dim, count, MatrixOperand{d_scores.data(), keys, 1}.Transposed(),
                   {q + at, q_stride, 1}, d_k, dim);
  }
}

}  // namespace

void AttendBackward(const AttentionShape& shape, int64_t tokens, const float* q, const float* k,
                    const float* v, const float* out, const float* d_out, float* d_q, float* d_k,
                    float* d_v) {
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads, size = tokens * dim;
  std::fill_n(d_q, tokens * shape.heads * dim, 0.0f);
  // By head: more tasks than there are heads of keys.
  std::vector<float> keys(static_cast<size_t>(shape.heads * size)), values(keys.size());
  const auto backward = [&](int64_t head) {
    HeadBackward(shape, tokens, head, q, k, v, out, d_out, d_q, keys.data() + head * size,
                 values.data() + head * size);
  };
  // Five products, as Attend's two.
  ParallelFor(shape.heads, backward, static_cast<double>(5 * tokens * tokens * dim) / 2e10);
  // A key's gradients are sums over the heads of its group, in order.
  ParallelFor(
      shape.kv_heads * tokens,
      [&](int64_t task) {
        const int64_t kv_head = task / tokens, t = task % tokens;
        const int64_t to = (t * shape.kv_heads + kv_head) * dim;
        for (int64_t d = 0; d < dim; ++d) {
          float by_key = 0, by_value = 0;
          for (int64_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
            by_key += keys[static_cast<size_t>(head * size + t * dim + d)];
            by_value += values[static_cast<size_t>(head * size + t * dim + d)];
          }
          d_k[to + d] = by_key;
          d_v[to + d] = by_value;
        }
      },
      1e-6);
}

}  // namespace quantd::calibration

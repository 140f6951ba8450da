#include "models/calibration/attention.h"

#include <algorithm>
#include <cmath>

#include "core/float_buffer.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "models/calibration/row_math.h"

namespace quantd::calibration {
namespace {

// Queries of one head that are worked on at once. Backward, they are the inner dimension of
// products, which are rounded so; forward, nothing depends on it.
constexpr int64_t kForwardQueries = 48, kBackwardQueries = 128;
constexpr int64_t kScoreRows = 48;  // whose scores stay near while they are worked on

// One side of products, float32 where it lies or rounded.
class Factor {
 public:
  // As RoundedOperand::Pack.
  void Set(const AttentionShape& shape, ProductSide side, const MatrixOperand& from, int64_t rows,
           int64_t inner) {
    plain_ = side == ProductSide::kLeft ? from : from.Transposed();
    if (shape.rounding) packed_.Pack(*shape.rounding, side, from, rows, inner);
  }

  struct Size {
    int64_t rows, cols, inner;
  };
  // C [rows, cols] = or (`add`) += left right; `inner` is the left one's.
  static void Multiply(const AttentionShape& shape, const Factor& left, const Factor& right,
                       const Size& size, bool add, float* c, int64_t c_stride) {
    if (shape.rounding) {
      MultiplyRounded(left.packed_, right.packed_, {0, size.rows, size.cols}, add, c, c_stride);
      return;
    }
    for (int64_t i = 0; !add && i < size.rows; ++i) {
      std::fill_n(c + i * c_stride, size.cols, 0.0f);
    }
    AddMatrixProduct(size.rows, size.cols, size.inner, left.plain_, right.plain_, c, c_stride);
  }

 private:
  MatrixOperand plain_;
  RoundedOperand packed_;
};

// One sequence's attention in a layer.
class Sequence {
 public:
  // Works on `queries` at once.
  Sequence(const AttentionShape& shape, int64_t queries, int64_t tokens, const float* q,
           const float* k, const float* v)
      : shape_(shape),
        queries_(queries),
        tokens_(tokens),
        dim_(shape.head_dim),
        blocks_((tokens + queries - 1) / queries),
        q_(q),
        k_(k),
        v_(v),
        keys_(static_cast<size_t>(shape.kv_heads)) {}

  // Lays out what all queries share.
  void PrepareForward() {
    ParallelFor(shape_.kv_heads, [&](int64_t h) {
      keys_[h].rows.Set(shape_, ProductSide::kRight, OfKeys(k_, h), tokens_, dim_);
      keys_[h].values.Set(shape_, ProductSide::kRight, OfKeys(v_, h).Transposed(), dim_, tokens_);
    });
  }
  void PrepareBackward() {
    ParallelFor(shape_.kv_heads, [&](int64_t h) {
      keys_[h].rows.Set(shape_, ProductSide::kRight, OfKeys(k_, h), tokens_, dim_);
      keys_[h].columns.Set(shape_, ProductSide::kRight, OfKeys(k_, h).Transposed(), dim_, tokens_);
      keys_[h].values.Set(shape_, ProductSide::kRight, OfKeys(v_, h), tokens_, dim_);
    });
  }

  int64_t blocks() const { return blocks_; }
  void Forward(int64_t head, int64_t block, float* out, float* softmax) const;
  // The block's part: d_q in place, d_k and d_v [KeysIn(block), head_dim] without gaps, set or
  // (`add`) added to.
  void Backward(int64_t head, int64_t block, bool add, const AttentionPass& pass,
                const float* d_out, float* d_q, float* d_k, float* d_v) const;
  // That a query of the block sees.
  int64_t KeysIn(int64_t block) const { return At(block).keys; }

 private:
  // What products read of one head of keys: K^T, K, and V or V^T.
  struct KeyHead {
    Factor rows, columns, values;
  };
  struct Block {
    int64_t first, count, keys;
    // Of its rows of scores: whole vectors, and one more, lest rows share cache sets.
    int64_t stride;
  };

  Block At(int64_t block) const {
    const int64_t first = block * queries_, count = std::min(queries_, tokens_ - first);
    const int64_t keys = shape_.causal ? first + count : tokens_;
    return {first, count, keys, (keys + kRowLanes - 1) / kRowLanes * kRowLanes + kRowLanes};
  }
  MatrixOperand OfKeys(const float* x, int64_t kv_head) const {
    return {x + kv_head * dim_, shape_.kv_heads * dim_, 1};
  }
  const KeyHead& KeysOf(int64_t head) const {
    return keys_[static_cast<size_t>(head / (shape_.heads / shape_.kv_heads))];
  }
  int64_t width() const { return shape_.heads * dim_; }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(dim_))); }

  // scores [count, stride] = the rows of `x` [count, head_dim], width() apart, times `keys`; then
  // row(i, scores) of every one.
  template <class Row>
  void Scores(const Block& at, const float* x, const Factor& keys, FloatBuffer& scores,
              const Row& row) const {
    thread_local Factor left;
    scores.resize(static_cast<size_t>(at.count * at.stride));
    for (int64_t first = 0; first < at.count; first += kScoreRows) {
      const int64_t rows = std::min(kScoreRows, at.count - first);
      left.Set(shape_, ProductSide::kLeft, {x + first * width(), width(), 1}, rows, dim_);
      float* to = scores.data() + first * at.stride;
      Factor::Multiply(shape_, left, keys, {rows, at.keys, dim_}, false, to, at.stride);
      for (int64_t i = 0; i < rows; ++i) row(first + i, to + i * at.stride);
    }
  }
  // weights [count, stride]: scores, then row(i, scores, visible) of every query; zeros beyond.
  template <class Row>
  void Weights(int64_t head, const Block& at, FloatBuffer& weights, const Row& row) const {
    const float* queries = q_ + at.first * width() + head * dim_;
    Scores(at, queries, KeysOf(head).rows, weights, [&](int64_t i, float* scores) {
      const int64_t visible = shape_.causal ? at.first + i + 1 : at.keys;
      row(i, scores, visible);
      std::fill(scores + visible, scores + at.keys, 0.0f);
    });
  }

  const AttentionShape shape_;
  const int64_t queries_, tokens_, dim_, blocks_;
  const float *q_, *k_, *v_;
  std::vector<KeyHead> keys_;  // by head of keys
};

void Sequence::Forward(int64_t head, int64_t block, float* out, float* softmax) const {
  thread_local FloatBuffer weights;
  thread_local Factor left;
  const Block at = At(block);
  Weights(head, at, weights, [&](int64_t i, float* scores, int64_t visible) {
    const SoftmaxTerms terms = SoftmaxRow(scale(), scores, visible);
    float* to = softmax + 2 * (head * tokens_ + at.first + i);
    to[0] = terms.top;
    to[1] = terms.inverse;
  });
  left.Set(shape_, ProductSide::kLeft, {weights.data(), at.stride, 1}, at.count, at.keys);
  Factor::Multiply(shape_, left, KeysOf(head).values, {at.count, dim_, at.keys}, false,
                   out + at.first * width() + head * dim_, width());
}

void Sequence::Backward(int64_t head, int64_t block, bool add, const AttentionPass& pass,
                        const float* d_out, float* d_q, float* d_k, float* d_v) const {
  thread_local FloatBuffer weights, d_scores;
  thread_local Factor left, right;
  const Block at = At(block);
  const int64_t offset = at.first * width() + head * dim_;
  Weights(head, at, weights, [&](int64_t i, float* scores, int64_t visible) {
    const float* terms = pass.softmax + 2 * (head * tokens_ + at.first + i);
    SoftmaxRow(scale(), {terms[0], terms[1]}, scores, visible);
  });
  const MatrixOperand d_rows = {d_out + offset, width(), 1};
  // dV += W^T dO
  left.Set(shape_, ProductSide::kLeft, MatrixOperand{weights.data(), at.stride, 1}.Transposed(),
           at.keys, at.count);
  right.Set(shape_, ProductSide::kRight, d_rows.Transposed(), dim_, at.count);
  Factor::Multiply(shape_, left, right, {at.keys, dim_, at.count}, add, d_v, dim_);
  // dW = dO V^T
  Scores(at, d_rows.data, KeysOf(head).values, d_scores, [&](int64_t i, float* scores) {
    const int64_t row = offset + i * width();
    // Of the weights' gradients under the weights.
    const float mean = DotRow(pass.out + row, d_out + row, dim_);
    ScoreGradientRow(scale(), weights.data() + i * at.stride, mean, at.keys, scores);
  });
  // dQ = dS K
  const MatrixOperand d_rows_of_scores = {d_scores.data(), at.stride, 1};
  left.Set(shape_, ProductSide::kLeft, d_rows_of_scores, at.count, at.keys);
  Factor::Multiply(shape_, left, KeysOf(head).columns, {at.count, dim_, at.keys}, false,
                   d_q + offset, width());
  // dK += dS^T Q
  left.Set(shape_, ProductSide::kLeft, d_rows_of_scores.Transposed(), at.keys, at.count);
  right.Set(shape_, ProductSide::kRight, MatrixOperand{q_ + offset, width(), 1}.Transposed(), dim_,
            at.count);
  Factor::Multiply(shape_, left, right, {at.keys, dim_, at.count}, add, d_k, dim_);
}

}  // namespace

void Rotate(const std::vector<float>& table, int64_t rotary, int64_t tokens, int64_t heads,
            int64_t head_dim, bool inverse, float* x) {
  const int64_t half = rotary / 2;
  ForRows(tokens, [&](int64_t first, int64_t count) {
    for (int64_t row = first * heads; row < (first + count) * heads; ++row) {
      const float* cosines = table.data() + row / heads * rotary;
      const float* sines = cosines + half;
      float* pair = x + row * head_dim;
      for (int64_t i = 0; i < half; ++i) {
        const float a = pair[i], b = pair[half + i], s = inverse ? -sines[i] : sines[i];
        pair[i] = a * cosines[i] - b * s;
        pair[half + i] = b * cosines[i] + a * s;
      }
    }
  });
}

void Attend(const AttentionShape& shape, int64_t tokens, const float* q, const float* k,
            const float* v, float* out, float* softmax) {
  Sequence sequence(shape, kForwardQueries, tokens, q, k, v);
  sequence.PrepareForward();
  const auto attend = [&](int64_t task) {
    sequence.Forward(task / sequence.blocks(), task % sequence.blocks(), out, softmax);
  };
  // Two products and a softmax.
  const auto multiplications =
      static_cast<double>(2 * kForwardQueries * tokens * (shape.head_dim + 16));
  ParallelFor(shape.heads * sequence.blocks(), attend, multiplications / 2e10);
}

void AttendBackward(const AttentionShape& shape, int64_t tokens, const AttentionPass& pass,
                    const float* d_out, AttentionSums& sums, float* d_q, float* d_k, float* d_v) {
  // Sums over a head's blocks of queries are made in two parts: more tasks than there are heads,
  // of about one size where later blocks see more keys.
  constexpr int64_t kParts = 2;
  const int64_t dim = shape.head_dim, group = shape.heads / shape.kv_heads, size = tokens * dim;
  Sequence sequence(shape, kBackwardQueries, tokens, pass.q, pass.k, pass.v);
  sequence.PrepareBackward();
  FloatBuffer &keys = sums.keys, &values = sums.values;
  keys.resize(static_cast<size_t>(shape.heads * kParts * size));
  values.resize(keys.size());
  const auto part_of = [](int64_t block) { return (block + 1) / 2 % kParts; };
  int64_t keys_in[kParts] = {};
  for (int64_t block = 0; block < sequence.blocks(); ++block) {
    keys_in[part_of(block)] = sequence.KeysIn(block);
  }
  const auto backward = [&](int64_t task) {
    const int64_t head = task / kParts, part = task % kParts;
    bool add = false;
    // The last block first: no other sees more keys.
    for (int64_t block = sequence.blocks() - 1; block >= 0; --block) {
      if (part_of(block) != part) continue;
      sequence.Backward(head, block, add, pass, d_out, d_q, keys.data() + task * size,
                        values.data() + task * size);
      add = true;
    }
  };
  // Five products, as Attend's two.
  ParallelFor(shape.heads * kParts, backward,
              static_cast<double>(5 * tokens * tokens * dim) / kParts / 2e10);
  // A key's gradients are sums over the heads of its group, in order.
  const auto add = [&](const FloatBuffer& from, int64_t token, int64_t kv_head, float* to) {
    std::fill_n(to, dim, 0.0f);
    for (int64_t task = kv_head * group * kParts; task < (kv_head + 1) * group * kParts; ++task) {
      if (token >= keys_in[task % kParts]) continue;
      const float* part = from.data() + task * size + token * dim;
      for (int64_t d = 0; d < dim; ++d) to[d] += part[d];
    }
  };
  ForRows(tokens, [&](int64_t first, int64_t count) {
    for (int64_t row = first * shape.kv_heads; row < (first + count) * shape.kv_heads; ++row) {
      add(keys, row / shape.kv_heads, row % shape.kv_heads, d_k + row * dim);
      add(values, row / shape.kv_heads, row % shape.kv_heads, d_v + row * dim);
    }
  });
}

}  // namespace quantd::calibration

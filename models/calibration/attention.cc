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
// Keys that backward works on at once, so that their scores stay in the second cache: whole blocks
// of any rounding.
constexpr int64_t kSliceKeys = 256;
static_assert(kSliceKeys % kInt8Block == 0);

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

// Rows of scores are whole vectors, and one more, lest rows share cache sets.
int64_t ScoreStride(int64_t keys) {
  return (keys + kRowLanes - 1) / kRowLanes * kRowLanes + kRowLanes;
}

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
        v_(v) {}

  int64_t blocks() const { return blocks_; }
  // That a query of the block sees.
  int64_t KeysIn(int64_t block) const { return At(block).keys; }

 protected:
  struct Block {
    int64_t first, count, keys;
  };
  Block At(int64_t block) const {
    const int64_t first = block * queries_, count = std::min(queries_, tokens_ - first);
    return {first, count, shape_.causal ? first + count : tokens_};
  }
  // The rows of `x` [tokens, heads * head_dim] in the block.
  MatrixOperand RowsOf(const float* x, int64_t head, const Block& at) const {
    return {x + at.first * width() + head * dim_, width(), 1};
  }
  // Those of `x` [tokens, kv_heads * head_dim] from `first` on.
  MatrixOperand RowsOfKeys(const float* x, int64_t kv_head, int64_t first) const {
    return {x + (first * shape_.kv_heads + kv_head) * dim_, shape_.kv_heads * dim_, 1};
  }
  int64_t KeyHeadOf(int64_t head) const { return head / (shape_.heads / shape_.kv_heads); }
  int64_t width() const { return shape_.heads * dim_; }
  float scale() const { return static_cast<float>(1 / std::sqrt(static_cast<double>(dim_))); }

  const AttentionShape shape_;
  const int64_t queries_, tokens_, dim_, blocks_;
  const float *q_, *k_, *v_;
};

class ForwardSequence : public Sequence {
 public:
  ForwardSequence(const AttentionShape& shape, int64_t tokens, const float* q, const float* k,
                  const float* v)
      : Sequence(shape, kForwardQueries, tokens, q, k, v),
        keys_(static_cast<size_t>(shape.kv_heads)) {
    ParallelFor(shape.kv_heads, [&](int64_t h) {
      keys_[h].rows.Set(shape_, ProductSide::kRight, RowsOfKeys(k_, h, 0), tokens_, dim_);
      keys_[h].values.Set(shape_, ProductSide::kRight, RowsOfKeys(v_, h, 0).Transposed(), dim_,
                          tokens_);
    });
  }

  void Run(int64_t head, int64_t block, float* out, float* softmax) const {
    thread_local FloatBuffer weights;
    thread_local Factor left;
    const Block at = At(block);
    const int64_t stride = ScoreStride(at.keys);
    const KeyHead& keys = keys_[static_cast<size_t>(KeyHeadOf(head))];
    weights.resize(static_cast<size_t>(at.count * stride));
    left.Set(shape_, ProductSide::kLeft, RowsOf(q_, head, at), at.count, dim_);
    Factor::Multiply(shape_, left, keys.rows, {at.count, at.keys, dim_}, false, weights.data(),
                     stride);
    for (int64_t i = 0; i < at.count; ++i) {
      float* scores = weights.data() + i * stride;
      const int64_t visible = shape_.causal ? at.first + i + 1 : at.keys;
      const SoftmaxTerms terms = SoftmaxRow(scale(), scores, visible);
      std::fill(scores + visible, scores + at.keys, 0.0f);
      float* to = softmax + 2 * (head * tokens_ + at.first + i);
      to[0] = terms.top;
      to[1] = terms.inverse;
    }
    left.Set(shape_, ProductSide::kLeft, {weights.data(), stride, 1}, at.count, at.keys);
    Factor::Multiply(shape_, left, keys.values, {at.count, dim_, at.keys}, false,
                     out + at.first * width() + head * dim_, width());
  }

 private:
  // What products read of one head of keys: K^T and V.
  struct KeyHead {
    Factor rows, values;
  };
  std::vector<KeyHead> keys_;
};

class BackwardSequence : public Sequence {
 public:
  BackwardSequence(const AttentionShape& shape, int64_t tokens, const AttentionPass& pass,
                   const float* d_out)
      : Sequence(shape, kBackwardQueries, tokens, pass.q, pass.k, pass.v),
        pass_(pass),
        d_out_(d_out),
        slices_((tokens + kSliceKeys - 1) / kSliceKeys),
        keys_(static_cast<size_t>(shape.kv_heads * slices_)) {
    ParallelFor(shape.kv_heads * slices_, [&](int64_t i) {
      const int64_t head = i / slices_, first = i % slices_ * kSliceKeys;
      const int64_t count = std::min(kSliceKeys, tokens_ - first);
      const MatrixOperand rows = RowsOfKeys(k_, head, first);
      keys_[i].rows.Set(shape_, ProductSide::kRight, rows, count, dim_);
      keys_[i].columns.Set(shape_, ProductSide::kRight, rows.Transposed(), dim_, count);
      keys_[i].values.Set(shape_, ProductSide::kRight, RowsOfKeys(v_, head, first), count, dim_);
    });
  }

  // The block's part: d_q in place, d_k and d_v [KeysIn(block), head_dim] without gaps, set or
  // (`add`) added to.
  void Run(int64_t head, int64_t block, bool add, float* d_q, float* d_k, float* d_v) const;

 private:
  // What products read of a slice of one head's keys: K^T, K, and V^T.
  struct KeySlice {
    Factor rows, columns, values;
  };
  // What all slices read of a block of queries of one head, and where one is worked on.
  struct Queries {
    Factor q, q_columns, d_out, d_out_columns;
    float means[kBackwardQueries];  // of the weights' gradients, under the weights
    FloatBuffer weights, d_scores;
    Factor left;
  };
  void Set(int64_t head, const Block& at, Queries& queries) const;
  // weights [count, stride] of the slice's `keys`, the first of which is `first`.
  void Weights(int64_t head, const Block& at, const KeySlice& slice, int64_t first, int64_t keys,
               Queries& queries) const;

  const AttentionPass pass_;
  const float* d_out_;
  const int64_t slices_;
  std::vector<KeySlice> keys_;  // [head][slice]
};

void BackwardSequence::Set(int64_t head, const Block& at, Queries& queries) const {
  const MatrixOperand q = RowsOf(q_, head, at), d_out = RowsOf(d_out_, head, at);
  queries.q.Set(shape_, ProductSide::kLeft, q, at.count, dim_);
  queries.q_columns.Set(shape_, ProductSide::kRight, q.Transposed(), dim_, at.count);
  queries.d_out.Set(shape_, ProductSide::kLeft, d_out, at.count, dim_);
  queries.d_out_columns.Set(shape_, ProductSide::kRight, d_out.Transposed(), dim_, at.count);
  const MatrixOperand out = RowsOf(pass_.out, head, at);
  for (int64_t i = 0; i < at.count; ++i) {
    queries.means[i] = DotRow(out.data + i * width(), d_out.data + i * width(), dim_);
  }
}

void BackwardSequence::Weights(int64_t head, const Block& at, const KeySlice& slice, int64_t first,
                               int64_t keys, Queries& queries) const {
  const int64_t stride = ScoreStride(keys);
  queries.weights.resize(static_cast<size_t>(at.count * stride));
  Factor::Multiply(shape_, queries.q, slice.rows, {at.count, keys, dim_}, false,
                   queries.weights.data(), stride);
  for (int64_t i = 0; i < at.count; ++i) {
    float* row = queries.weights.data() + i * stride;
    const float* terms = pass_.softmax + 2 * (head * tokens_ + at.first + i);
    const int64_t visible =
        shape_.causal ? std::clamp<int64_t>(at.first + i + 1 - first, 0, keys) : keys;
    if (visible > 0) SoftmaxRow(scale(), {terms[0], terms[1]}, row, visible);
    std::fill(row + visible, row + keys, 0.0f);
  }
}

void BackwardSequence::Run(int64_t head, int64_t block, bool add, float* d_q, float* d_k,
                           float* d_v) const {
  thread_local Queries queries;
  const Block at = At(block);
  Set(head, at, queries);
  const MatrixOperand to = RowsOf(d_q, head, at);
  for (int64_t first = 0; first < at.keys; first += kSliceKeys) {
    const KeySlice& slice =
        keys_[static_cast<size_t>(KeyHeadOf(head) * slices_ + first / kSliceKeys)];
    const int64_t keys = std::min(kSliceKeys, at.keys - first), stride = ScoreStride(keys);
    Weights(head, at, slice, first, keys, queries);
    Factor& left = queries.left;
    // dV += W^T dO
    const MatrixOperand weights = {queries.weights.data(), stride, 1};
    left.Set(shape_, ProductSide::kLeft, weights.Transposed(), keys, at.count);
    Factor::Multiply(shape_, left, queries.d_out_columns, {keys, dim_, at.count}, add,
                     d_v + first * dim_, dim_);
    // dW = dO V^T
    queries.d_scores.resize(queries.weights.size());
    const MatrixOperand d_scores = {queries.d_scores.data(), stride, 1};
    Factor::Multiply(shape_, queries.d_out, slice.values, {at.count, keys, dim_}, false,
                     queries.d_scores.data(), stride);
    for (int64_t i = 0; i < at.count; ++i) {
      ScoreGradientRow(scale(), weights.data + i * stride, queries.means[i], keys,
                       queries.d_scores.data() + i * stride);
    }
    // dQ += dS K
    left.Set(shape_, ProductSide::kLeft, d_scores, at.count, keys);
    Factor::Multiply(shape_, left, slice.columns, {at.count, dim_, keys}, first > 0,
                     const_cast<float*>(to.data), width());
    // dK += dS^T Q
    left.Set(shape_, ProductSide::kLeft, d_scores.Transposed(), keys, at.count);
    Factor::Multiply(shape_, left, queries.q_columns, {keys, dim_, at.count}, add,
                     d_k + first * dim_, dim_);
  }
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
  const ForwardSequence sequence(shape, tokens, q, k, v);
  const auto attend = [&](int64_t task) {
    sequence.Run(task / sequence.blocks(), task % sequence.blocks(), out, softmax);
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
  const BackwardSequence sequence(shape, tokens, pass, d_out);
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
      sequence.Run(head, block, add, d_q, keys.data() + task * size, values.data() + task * size);
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

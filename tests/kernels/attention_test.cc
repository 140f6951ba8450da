#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/parallel.h"
#include "tests/kernels/testing.h"

namespace quantd::testing {
namespace {

struct Heads {
  int heads, kv_heads, head_dim;
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Rotate-half RoPE, softmax(q k^T scale) v in double, over the whole history of one sequence.
class NaiveAttention {
 public:
  NaiveAttention(const Heads& heads, const std::vector<float>& rope, bool causal)
      : heads_(heads), rope_(rope), causal_(causal) {}

  // Appends the rows of `qkv` and gives their results, [rows, heads * head_dim].
  std::vector<double> Step(const float* qkv, int64_t rows) {
    const int64_t first = static_cast<int64_t>(keys_.size());
    for (int64_t r = 0; r < rows; ++r) {
      const float* k = qkv + r * heads_.width() + heads_.heads * heads_.head_dim;
      keys_.push_back(Rotated(k, heads_.kv_heads, first + r));
      const float* v = k + heads_.kv_heads * heads_.head_dim;
      values_.emplace_back(v, v + heads_.kv_heads * heads_.head_dim);
    }
    std::vector<double> out;
    for (int64_t r = 0; r < rows; ++r) {
      const std::vector<double> q = Rotated(qkv + r * heads_.width(), heads_.heads, first + r);
      const int64_t end = causal_ ? first + r + 1 : first + rows;
      for (int h = 0; h < heads_.heads; ++h) Attend(q.data() + h * heads_.head_dim, h, end, out);
    }
    return out;
  }

 private:
  std::vector<double> Rotated(const float* x, int heads, int64_t position) const {
    const int dim = heads_.head_dim, half = dim / 2;
    std::vector<double> out(x, x + heads * dim);
    if (rope_.empty()) return out;
    for (int h = 0; h < heads; ++h) {
      for (int i = 0; i < half; ++i) {
        const double c = rope_[position * dim + i], s = rope_[position * dim + half + i];
        out[h * dim + i] = x[h * dim + i] * c - x[h * dim + half + i] * s;
        out[h * dim + half + i] = x[h * dim + half + i] * c + x[h * dim + i] * s;
      }
    }
    return out;
  }

  void Attend(const double* q, int head, int64_t end, std::vector<double>& out) const {
    const int dim = heads_.head_dim, kv = head / (heads_.heads / heads_.kv_heads);
    std::vector<double> weights(static_cast<size_t>(end));
    double top = -1e300, sum = 0;
    for (int64_t k = 0; k < end; ++k) {
      double dot = 0;
      for (int d = 0; d < dim; ++d) dot += q[d] * keys_[k][kv * dim + d];
      weights[k] = dot / std::sqrt(double(dim));
      top = std::max(top, weights[k]);
    }
    for (double& w : weights) sum += w = std::exp(w - top);
    for (int d = 0; d < dim; ++d) {
      double value = 0;
      for (int64_t k = 0; k < end; ++k) value += weights[k] * values_[k][kv * dim + d];
      out.push_back(value / sum);
    }
  }

  Heads heads_;
  std::vector<float> rope_;
  bool causal_;
  std::vector<std::vector<double>> keys_, values_;
};

std::vector<float> RopeTable(int64_t positions, int dim) {
  std::vector<float> table(static_cast<size_t>(positions * dim));
  for (int64_t p = 0; p < positions; ++p) {
    for (int i = 0; i < dim / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / dim);
      table[p * dim + i] = static_cast<float>(std::cos(angle));
      table[p * dim + dim / 2 + i] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

class AttentionOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  AttentionArgs ArgsFor(const Heads& heads) const {
    AttentionArgs args;
    args.heads = heads.heads;
    args.kv_heads = heads.kv_heads;
    args.head_dim = heads.head_dim;
    args.scale = 1 / std::sqrt(static_cast<float>(heads.head_dim));
    return args;
  }

  std::vector<float> Run(AttentionArgs args, const std::vector<float>& qkv, const Heads& heads,
                         const std::vector<SequenceRows>& sequences) {
    const int64_t rows = static_cast<int64_t>(qkv.size()) / heads.width();
    const auto in = ArrayOf(*backend_, rows, heads.width(), qkv);
    const auto out = ArrayOf(*backend_, rows, heads.heads * heads.head_dim, {});
    args.qkv = in.get();
    args.out = out.get();
    args.sequences = sequences;
    absl::Status status;
    RunCompute(TaskPriority::kInteractive, [&] { status = backend_->Attention(args); });
    EXPECT_TRUE(status.ok()) << status;
    return Read(*backend_, *out);
  }

  std::unique_ptr<KvCache> Cache(const Heads& heads, int capacity, Compute compute) {
    auto cache = backend_->CreateKvCache({2, heads.kv_heads, heads.head_dim, capacity, compute});
    EXPECT_TRUE(cache.ok()) << cache.status();
    return *std::move(cache);
  }

  std::unique_ptr<Backend> backend_ = BackendOn(GetParam());
};

constexpr Heads kHeads[] = {{9, 3, 64}, {4, 4, 16}, {8, 1, 40}, {5, 1, 10}, {32, 4, 64}};

// f16 keys and values: 2^-12 / sqrt(3) each, and exponents move by the score's error.
double Tolerance(Compute compute) { return compute == Compute::kExact ? 1e-5 : 2e-3; }

TEST_P(AttentionOnIsa, PrefillThenDecodeMatchesNaive) {
  for (const Heads& heads : kHeads) {
    for (const Compute compute : {Compute::kExact, Compute::kFast}) {
      const std::vector<float> rope = RopeTable(256, heads.head_dim);
      const auto rope_array = ArrayOf(*backend_, 256, heads.head_dim, rope);
      const auto cache = Cache(heads, 200, compute);
      NaiveAttention naive(heads, rope, /*causal=*/true);
      AttentionArgs args = ArgsFor(heads);
      args.rope = rope_array.get();
      args.layer = 1;
      int32_t position = 0;
      for (const int32_t rows : {1, 33, 1, 129, 1, 3}) {
        const std::vector<float> qkv = RandomFloats(rows * heads.width(), 100 + rows);
        const std::vector<float> found = Run(args, qkv, heads, {{cache.get(), 0, rows, position}});
        EXPECT_LT(RelativeError(found, naive.Step(qkv.data(), rows)), Tolerance(compute))
            << heads.heads << "/" << heads.kv_heads << "x" << heads.head_dim << " at " << position;
        position += rows;
      }
    }
  }
}

// `row` [heads of q, k and v] with an RMS norm of the heads of q and of k.
void NormHeads(const Heads& heads, const std::vector<float>& q, const std::vector<float>& k,
               double epsilon, float* row) {
  const int dim = heads.head_dim;
  for (int h = 0; h < heads.heads + heads.kv_heads; ++h, row += dim) {
    double squares = 0;
    for (int d = 0; d < dim; ++d) squares += double{row[d]} * row[d];
    const double factor = 1 / std::sqrt(squares / dim + epsilon);
    for (int d = 0; d < dim; ++d) {
      row[d] = static_cast<float>(row[d] * factor * (h < heads.heads ? q : k)[d]);
    }
  }
}

TEST_P(AttentionOnIsa, NormsTheHeadsOfQueriesAndKeys) {
  for (const Heads& heads : kHeads) {
    const int rotary = heads.head_dim / 4 * 2;  // half of a head, or a pair less
    const std::vector<float> rope = RopeTable(64, rotary);
    const auto rope_array = ArrayOf(*backend_, 64, rotary, rope);
    const std::vector<float> q_norm = RandomFloats(heads.head_dim, 50);
    const std::vector<float> k_norm = RandomFloats(heads.head_dim, 51);
    const auto q_array = ArrayOf(*backend_, 1, heads.head_dim, q_norm);
    const auto k_array = ArrayOf(*backend_, 1, heads.head_dim, k_norm);
    const auto cache = Cache(heads, 64, Compute::kExact);
    AttentionArgs args = ArgsFor(heads);
    args.rope = rope_array.get();
    const std::vector<float> qkv = RandomFloats(33 * heads.width(), 52);
    std::vector<float> normed = qkv;
    for (int64_t row = 0; row < 33; ++row) {
      NormHeads(heads, q_norm, k_norm, 0.01, normed.data() + row * heads.width());
    }
    const std::vector<float> expected = Run(args, normed, heads, {{cache.get(), 0, 33, 0}});
    args.q_norm = q_array.get();
    args.k_norm = k_array.get();
    args.norm_epsilon = 0.01f;
    const std::vector<float> found = Run(args, qkv, heads, {{cache.get(), 0, 33, 0}});
    EXPECT_LT(RelativeError(found, {expected.begin(), expected.end()}), 1e-5) << heads.head_dim;
  }
}

TEST_P(AttentionOnIsa, RefusesNormsOfAnotherWidth) {
  const Heads heads{2, 1, 16};
  const auto in = ArrayOf(*backend_, 4, heads.width(), {});
  const auto out = ArrayOf(*backend_, 4, 32, {});
  const auto norm = ArrayOf(*backend_, 1, 16, {}), narrow = ArrayOf(*backend_, 1, 15, {});
  const SequenceRows rows[] = {{nullptr, 0, 4, 0}};
  AttentionArgs args = ArgsFor(heads);
  args.qkv = in.get();
  args.out = out.get();
  args.sequences = rows;
  args.q_norm = norm.get();
  for (const DeviceArray* k_norm :
       {static_cast<const DeviceArray*>(nullptr), static_cast<const DeviceArray*>(narrow.get())}) {
    args.k_norm = k_norm;
    RunCompute(TaskPriority::kInteractive, [&] {
      EXPECT_EQ(backend_->Attention(args).code(), absl::StatusCode::kInvalidArgument);
    });
  }
}

TEST_P(AttentionOnIsa, LongDecodeIsSplitOverKeys) {
  const Heads heads{6, 2, 32};
  const auto cache = Cache(heads, 2000, Compute::kExact);
  NaiveAttention naive(heads, {}, /*causal=*/true);
  const AttentionArgs args = ArgsFor(heads);
  const std::vector<float> prompt = RandomFloats(1501 * heads.width(), 1);
  Run(args, prompt, heads, {{cache.get(), 0, 1501, 0}});
  naive.Step(prompt.data(), 1501);
  const std::vector<float> qkv = RandomFloats(heads.width(), 2, 2);
  EXPECT_LT(
      RelativeError(Run(args, qkv, heads, {{cache.get(), 0, 1, 1501}}), naive.Step(qkv.data(), 1)),
      1e-5);
}

TEST_P(AttentionOnIsa, RaggedBatchEqualsSequencesAlone) {
  const Heads heads{9, 3, 64};
  const std::vector<int32_t> lengths = {5, 1, 40, 17};
  const AttentionArgs args = ArgsFor(heads);
  std::vector<float> batch;
  std::vector<float> expected;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<SequenceRows> rows;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const std::vector<float> history = RandomFloats(20 * heads.width(), 10 + i);
    const std::vector<float> qkv = RandomFloats(lengths[i] * heads.width(), 20 + i);
    const auto alone = Cache(heads, 64, Compute::kFast);
    Run(args, history, heads, {{alone.get(), 0, 20, 0}});
    const std::vector<float> result = Run(args, qkv, heads, {{alone.get(), 0, lengths[i], 20}});
    expected.insert(expected.end(), result.begin(), result.end());
    caches.push_back(Cache(heads, 64, Compute::kFast));
    Run(args, history, heads, {{caches[i].get(), 0, 20, 0}});
    rows.push_back(
        {caches[i].get(), static_cast<int32_t>(batch.size() / heads.width()), lengths[i], 20});
    batch.insert(batch.end(), qkv.begin(), qkv.end());
  }
  EXPECT_EQ(Run(args, batch, heads, rows), expected);
}

TEST_P(AttentionOnIsa, EncoderRowsSeeEachOtherOnly) {
  const Heads heads{4, 4, 24};
  AttentionArgs args = ArgsFor(heads);
  args.causal = false;
  const std::vector<float> qkv = RandomFloats(50 * heads.width(), 30);
  std::vector<double> expected = NaiveAttention(heads, {}, false).Step(qkv.data(), 33);
  const std::vector<double> second =
      NaiveAttention(heads, {}, false).Step(qkv.data() + 33 * heads.width(), 17);
  expected.insert(expected.end(), second.begin(), second.end());
  EXPECT_LT(
      RelativeError(Run(args, qkv, heads, {{nullptr, 0, 33, 0}, {nullptr, 33, 17, 0}}), expected),
      1e-5);
}

TEST_P(AttentionOnIsa, LargeScoresDoNotOverflow) {
  const Heads heads{2, 1, 16};
  const AttentionArgs args = ArgsFor(heads);
  const std::vector<float> qkv = RandomFloats(40 * heads.width(), 31, 100);
  const auto cache = Cache(heads, 64, Compute::kExact);
  EXPECT_LT(RelativeError(Run(args, qkv, heads, {{cache.get(), 0, 40, 0}}),
                          NaiveAttention(heads, {}, true).Step(qkv.data(), 40)),
            1e-4);
}

TEST_P(AttentionOnIsa, RefusesMoreTokensThanTheCacheHolds) {
  const Heads heads{2, 1, 16};
  AttentionArgs args = ArgsFor(heads);
  const auto cache = Cache(heads, 16, Compute::kFast);
  const auto in = ArrayOf(*backend_, 4, heads.width(), {});
  const auto out = ArrayOf(*backend_, 4, 32, {});
  const SequenceRows rows[] = {{cache.get(), 0, 4, 13}};
  args.qkv = in.get();
  args.out = out.get();
  args.sequences = rows;
  RunCompute(TaskPriority::kInteractive, [&] {
    EXPECT_EQ(backend_->Attention(args).code(), absl::StatusCode::kFailedPrecondition);
  });
}

INSTANTIATE_TEST_SUITE_P(AllIsas, AttentionOnIsa, ::testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd::testing

#include "tests/kernels/opencl/fixture.h"

namespace quantd {
namespace {

struct Heads {
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int64_t width() const { return int64_t{heads + 2 * kv_heads} * head_dim; }
};

void PrintTo(const Heads& h, std::ostream* out) {
  *out << h.heads << " over " << h.kv_heads << " of " << h.head_dim;
}

// [positions, head_dim/2 cosines then sines]
std::vector<float> RopeTable(int positions, int head_dim) {
  std::vector<float> table(static_cast<size_t>(positions) * head_dim);
  for (int p = 0; p < positions; ++p) {
    for (int j = 0; j < head_dim / 2; ++j) {
      const double angle = p * std::pow(10000.0, -2.0 * j / head_dim);
      table[p * head_dim + j] = static_cast<float>(std::cos(angle));
      table[p * head_dim + head_dim / 2 + j] = static_cast<float>(std::sin(angle));
    }
  }
  return table;
}

std::vector<double> Rotated(const float* head, const float* angles, int dim) {
  std::vector<double> out(head, head + dim);
  if (angles == nullptr) return out;
  const int half = dim / 2;
  for (int j = 0; j < half; ++j) {
    out[j] = double{head[j]} * angles[j] - double{head[j + half]} * angles[half + j];
    out[j + half] = double{head[j + half]} * angles[j] + double{head[j]} * angles[half + j];
  }
  return out;
}

// Attention of one whole sequence from position 0: qkv [tokens, width] -> [tokens, heads *
// head_dim].
std::vector<double> Reference(const Heads& h, const std::vector<float>& qkv,
                              const std::vector<float>& rope, bool causal) {
  const int dim = h.head_dim;
  const int tokens = static_cast<int>(static_cast<int64_t>(qkv.size()) / h.width());
  const auto head_at = [&](int token, int head) { return &qkv[token * h.width() + head * dim]; };
  const auto angles = [&](int t) { return rope.empty() ? nullptr : &rope[t * dim]; };
  std::vector<double> out(static_cast<size_t>(tokens) * h.heads * dim);
  for (int head = 0; head < h.heads; ++head) {
    const int kv = head / (h.heads / h.kv_heads);
    for (int t = 0; t < tokens; ++t) {
      const std::vector<double> q = Rotated(head_at(t, head), angles(t), dim);
      const int keys = causal ? t + 1 : tokens;
      std::vector<double> weights(keys);
      double sum = 0;
      for (int s = 0; s < keys; ++s) {
        const std::vector<double> k = Rotated(head_at(s, h.heads + kv), angles(s), dim);
        double dot = 0;
        for (int d = 0; d < dim; ++d) dot += q[d] * k[d];
        weights[s] = std::exp(dot / std::sqrt(dim));
        sum += weights[s];
      }
      for (int s = 0; s < keys; ++s) {
        const float* v = head_at(s, h.heads + h.kv_heads + kv);
        for (int d = 0; d < dim; ++d) {
          out[(t * h.heads + head) * dim + d] += weights[s] / sum * v[d];
        }
      }
    }
  }
  return out;
}

class AttentionOfHeads : public OpenClTestWith<Heads> {
 protected:
  AttentionArgs ArgsFor(const Heads& h) {
    AttentionArgs args;
    args.heads = h.heads;
    args.kv_heads = h.kv_heads;
    args.head_dim = h.head_dim;
    args.scale = 1 / std::sqrt(static_cast<float>(h.head_dim));
    return args;
  }
};

// Two sequences of different lengths: prefilled in one ragged batch, in chunks, then decoded.
TEST_P(AttentionOfHeads, RaggedCausalChunksEqualWholeSequences) {
  const Heads h = GetParam();
  const int lengths[] = {131, 18};
  // Rows of each sequence per step: prefill, chunk, then single tokens with the other one absent.
  const std::vector<std::vector<int>> steps = {{65, 1}, {33, 16}, {31, 0}, {1, 1}, {1, 0}};
  const std::vector<float> rope =
      h.head_dim % 2 == 0 ? RopeTable(131, h.head_dim) : std::vector<float>();
  std::unique_ptr<DeviceArray> rope_array;
  if (!rope.empty()) rope_array = ArrayOf(131, h.head_dim, rope);
  std::vector<std::vector<float>> qkv;
  std::vector<std::vector<double>> expected;
  std::vector<std::unique_ptr<KvCache>> caches;
  for (int s = 0; s < 2; ++s) {
    qkv.push_back(RandomFloats(lengths[s] * h.width(), 40 + s));
    expected.push_back(Reference(h, qkv[s], rope, /*causal=*/true));
    auto cache = backend().CreateKvCache({2, h.kv_heads, h.head_dim, 131});
    ASSERT_OK(cache.status());
    EXPECT_EQ((*cache)->bytes(), uint64_t{2} * 2 * h.kv_heads * h.head_dim * 136 * 4);
    caches.push_back(*std::move(cache));
  }
  int done[] = {0, 0};
  for (const std::vector<int>& step : steps) {
    const int rows = step[0] + step[1];
    std::vector<float> batch;
    std::vector<SequenceRows> sequences;
    for (int s = 0; s < 2; ++s) {
      if (step[s] == 0) continue;
      sequences.push_back(
          {caches[s].get(), static_cast<int32_t>(batch.size() / h.width()), step[s], done[s]});
      batch.insert(batch.end(), qkv[s].begin() + done[s] * h.width(),
                   qkv[s].begin() + (done[s] + step[s]) * h.width());
    }
    const auto input = ArrayOf(rows, h.width(), batch);
    const auto output = NewArray(rows, int64_t{h.heads} * h.head_dim);
    AttentionArgs args = ArgsFor(h);
    args.layer = 1;
    args.rope = rope_array.get();
    args.qkv = input.get();
    args.sequences = sequences;
    args.out = output.get();
    ASSERT_OK(backend().Attention(args));
    const std::vector<float> y = Values(*output);
    const int64_t width = int64_t{h.heads} * h.head_dim;
    int64_t at = 0;
    for (int s = 0; s < 2; ++s) {
      // Weighted means of values within [-1, 1]: float32 sums and exp of 2 ulp.
      for (int64_t i = 0; i < step[s] * width; ++i, ++at) {
        ASSERT_NEAR(y[at], expected[s][done[s] * width + i], 5e-6)
            << "sequence " << s << " from " << done[s] << ", element " << i;
      }
      done[s] += step[s];
    }
  }
}

TEST_P(AttentionOfHeads, WithoutCacheRowsSeeEachOther) {
  const Heads h = GetParam();
  for (const int tokens : {1, 3, 17, 129}) {
    const std::vector<float> qkv = RandomFloats(tokens * h.width(), 50);
    const std::vector<double> expected = Reference(h, qkv, {}, /*causal=*/false);
    // The sequence sits behind two rows of another one.
    std::vector<float> batch = RandomFloats(2 * h.width(), 51);
    batch.insert(batch.end(), qkv.begin(), qkv.end());
    const auto input = ArrayOf(tokens + 2, h.width(), batch);
    const int64_t width = int64_t{h.heads} * h.head_dim;
    const auto output = NewArray(tokens + 2, width);
    const SequenceRows sequences[] = {{nullptr, 0, 2, 0}, {nullptr, 2, tokens, 0}};
    AttentionArgs args = ArgsFor(h);
    args.causal = false;
    args.qkv = input.get();
    args.sequences = sequences;
    args.out = output.get();
    ASSERT_OK(backend().Attention(args));
    const std::vector<float> y = Values(*output);
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_NEAR(y[2 * width + i], expected[i], 5e-6) << tokens << " tokens, element " << i;
    }
  }
}

// An RMS norm of the heads of q and of k in every row of `qkv`.
std::vector<float> Normed(const Heads& h, const std::vector<float>& q, const std::vector<float>& k,
                          double epsilon, std::vector<float> qkv) {
  for (size_t at = 0; at < qkv.size(); at += h.head_dim) {
    const auto head = static_cast<int>(at % h.width()) / h.head_dim;
    if (head >= h.heads + h.kv_heads) continue;
    double squares = 0;
    for (int d = 0; d < h.head_dim; ++d) squares += double{qkv[at + d]} * qkv[at + d];
    const double factor = 1 / std::sqrt(squares / h.head_dim + epsilon);
    for (int d = 0; d < h.head_dim; ++d) {
      qkv[at + d] = static_cast<float>(qkv[at + d] * factor * (head < h.heads ? q : k)[d]);
    }
  }
  return qkv;
}

TEST_P(AttentionOfHeads, NormsTheHeadsOfQueriesAndKeys) {
  const Heads h = GetParam();
  const std::vector<float> rope =
      h.head_dim % 2 == 0 ? RopeTable(18, h.head_dim) : std::vector<float>();
  std::unique_ptr<DeviceArray> rope_array;
  if (!rope.empty()) rope_array = ArrayOf(18, h.head_dim, rope);
  const std::vector<float> q_norm = RandomFloats(h.head_dim, 60);
  const std::vector<float> k_norm = RandomFloats(h.head_dim, 61);
  const auto q_array = ArrayOf(1, h.head_dim, q_norm), k_array = ArrayOf(1, h.head_dim, k_norm);
  // The sequence sits behind two rows of another one.
  const std::vector<float> qkv = RandomFloats(18 * h.width(), 62);
  std::vector<float> batch = RandomFloats(2 * h.width(), 63);
  batch.insert(batch.end(), qkv.begin(), qkv.end());
  const auto input = ArrayOf(20, h.width(), batch);
  const int64_t width = int64_t{h.heads} * h.head_dim;
  const auto output = NewArray(20, width);
  const SequenceRows sequences[] = {{nullptr, 0, 2, 0}, {nullptr, 2, 18, 0}};
  AttentionArgs args = ArgsFor(h);
  args.q_norm = q_array.get();
  args.k_norm = k_array.get();
  args.norm_epsilon = 0.01f;
  args.rope = rope_array.get();
  args.qkv = input.get();
  args.sequences = sequences;
  args.out = output.get();
  ASSERT_OK(backend().Attention(args));
  const std::vector<double> expected =
      Reference(h, Normed(h, q_norm, k_norm, 0.01, qkv), rope, /*causal=*/true);
  const std::vector<float> y = Values(*output);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(y[2 * width + i], expected[i], 5e-6) << "element " << i;
  }
  args.k_norm = nullptr;
  EXPECT_EQ(backend().Attention(args).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionOfHeads,
                         testing::Values(Heads{1, 1, 1}, Heads{3, 3, 31}, Heads{9, 3, 64},
                                         Heads{4, 2, 80}, Heads{8, 1, 130}),
                         [](const auto& info) {
                           return std::to_string(info.param.heads) + "over" +
                                  std::to_string(info.param.kv_heads) + "of" +
                                  std::to_string(info.param.head_dim);
                         });

TEST_P(AttentionOfHeads, TooManyTokensForTheCacheAreOutOfRange) {
  const Heads h = GetParam();
  auto cache = backend().CreateKvCache({1, h.kv_heads, h.head_dim, 4});
  ASSERT_OK(cache.status());
  const auto input = NewArray(3, h.width());
  const auto output = NewArray(3, int64_t{h.heads} * h.head_dim);
  const SequenceRows sequences[] = {{cache->get(), 0, 3, 2}};
  AttentionArgs args = ArgsFor(h);
  args.qkv = input.get();
  args.sequences = sequences;
  args.out = output.get();
  EXPECT_EQ(backend().Attention(args).code(), absl::StatusCode::kOutOfRange);
}

}  // namespace
}  // namespace quantd

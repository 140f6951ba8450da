// A block's change: near the difference of two whole runs.
#include <gtest/gtest.h>

#include <cmath>

#include "memory_source.h"
#include "models/calibration/block_model.h"
#include "reference_forward.h"
#include "tests/random_floats.h"

namespace quantd {
namespace {

constexpr int64_t kTokens = 13;

// |a - b| / |b|
double RelativeDistance(const FloatBuffer& a, const FloatBuffer& b) {
  double distance = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    distance += std::pow(a[i] - b[i], 2);
    norm += std::pow(b[i], 2);
  }
  return std::sqrt(distance / norm);
}

void AddToReaders(CalibratedBlock& block, BlockValue from, float factor, bool only_the_change) {
  for (const BlockLinear& linear : block.linears()) {
    if (linear.input != from) continue;
    const std::span<float> weight = block.Parameter(linear.module + ".weight");
    const std::vector<float> change = RandomFloats(linear.rows * linear.cols, 7, 0.02f);
    for (size_t i = 0; i < weight.size(); ++i) {
      weight[i] = (only_the_change ? 0 : weight[i]) + factor * change[i];
    }
  }
}

void CheckChanges(BlockModel& model, int64_t vocabulary) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<int32_t>(i * 31 % vocabulary));
  const std::vector<float> hidden = *model.Embed(ids);
  using V = BlockValue;
  for (const auto& [from, until] : {std::pair{V::kAttentionInput, V::kAttentionOutput},
                                    {V::kAttended, V::kAttentionOutput},
                                    {V::kMlpInput, V::kMlpOutput},
                                    {V::kMlpHidden, V::kMlpOutput}}) {
    SCOPED_TRACE(static_cast<int>(from));
    const auto block = *model.LoadBlock(1);
    const BlockPass reference = block->Run(V::kInput, hidden, V::kOutput);
    AddToReaders(*block, from, 1, /*only_the_change=*/false);
    FloatBuffer expected = block->Run(from, reference[from], until)[until];
    for (size_t i = 0; i < expected.size(); ++i) expected[i] -= reference[until][i];
    AddToReaders(*block, from, 1, /*only_the_change=*/true);
    FloatBuffer change;
    block->Change(reference, from, until, change);
    // Float32 loses where the expected one is the difference of two large numbers.
    EXPECT_LT(RelativeDistance(change, expected), 1e-4);
    block->SetRounding({.linears = ProductRounding::kInt8, .attention = std::nullopt});
    block->Change(reference, from, until, change);
    // Two products of numbers rounded to 1/254 of the largest of their blocks, which are a few
    // times the others.
    const double rounded = RelativeDistance(change, expected);
    EXPECT_GT(rounded, 1e-4);
    EXPECT_LT(rounded, 4e-2);
  }
}

TEST(DenseBlock, ChangesAreDifferencesOfRuns) {
  ModelConfig biased = TinyDecoderConfig();
  biased.attention_bias = true;
  // As they are, with biases, fused, with norms of heads.
  for (const ModelConfig& config :
       {TinyDecoderConfig(), biased, TinyPhi3Config(), TinyQwen3Config()}) {
    auto decoder = *OpenBlockModel(RandomDecoder(config, 5), {.positions = kTokens});
    CheckChanges(*decoder, config.vocab_size);
  }
  auto encoder = *OpenBlockModel(RandomEncoder(TinyEncoderConfig(), 5), {.positions = kTokens});
  CheckChanges(*encoder, TinyEncoderConfig().vocab_size);
}

}  // namespace
}  // namespace quantd

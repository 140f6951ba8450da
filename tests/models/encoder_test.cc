#include "models/architectures/encoder.h"

#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "gtest/gtest.h"
#include "memory_source.h"
#include "reference_forward.h"

namespace quantd {
namespace {

// Hidden states of several sequences in one pass, [all tokens, hidden].
std::vector<float> HiddenStates(const MemorySource& source, Compute compute,
                                const std::vector<std::vector<int32_t>>& sequences) {
  const auto backend = CreateBackend("cpu").value();
  EXPECT_TRUE(CheckParameters(source, EncoderParameters(source.config(), source).value()).ok());
  Encoder::Options options;
  options.compute = compute;
  options.max_batch_tokens = 256;
  options.on_progress = [](int64_t, int64_t) { return absl::OkStatus(); };
  auto encoder = Encoder::Load(source, *backend, options);
  EXPECT_TRUE(encoder.ok()) << encoder.status();
  std::vector<int32_t> ids;
  std::vector<SequenceRows> rows;
  for (const std::vector<int32_t>& sequence : sequences) {
    rows.push_back({.first_row = static_cast<int32_t>(ids.size()),
                    .rows = static_cast<int32_t>(sequence.size())});
    ids.insert(ids.end(), sequence.begin(), sequence.end());
  }
  std::vector<float> states(ids.size() * source.config().hidden_size);
  absl::Status status;
  RunCompute(TaskPriority::kInteractive, [&] { status = (*encoder)->Forward(ids, rows, states); });
  EXPECT_TRUE(status.ok()) << status;
  return states;
}

TEST(Encoder, GivesTheReferenceHiddenStatesInABatch) {
  const auto source = RandomEncoder(TinyEncoderConfig(), 23);
  const std::vector<std::vector<int32_t>> sequences = {
      {1, 5, 52, 9, 33, 2},
      {1, 2},
      {1, 40, 40, 40, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 2},
      {3}};
  std::vector<double> expected;
  for (const auto& sequence : sequences) {
    const std::vector<double> states = ReferenceHiddenStates(*source, sequence);
    expected.insert(expected.end(), states.begin(), states.end());
  }
  EXPECT_LT(RelativeError(HiddenStates(*source, Compute::kExact, sequences), expected), 1e-5);
  EXPECT_LT(RelativeError(HiddenStates(*source, Compute::kFast, sequences), expected), 2e-2);
}

TEST(Encoder, ReadsParametersWithThePrefix) {
  const auto bare = RandomEncoder(TinyEncoderConfig(), 29);
  MemorySource prefixed(bare->config());
  for (const SourceParameter& parameter : bare->parameters()) {
    prefixed.Set("bert." + parameter.name, bare->Read(parameter.name).value());
  }
  prefixed.SetFloats("cls.predictions.bias", {53}, std::vector<float>(53, 0.0f));
  const std::vector<std::vector<int32_t>> sequence = {{1, 2, 3}};
  EXPECT_EQ(HiddenStates(*bare, Compute::kExact, sequence),
            HiddenStates(prefixed, Compute::kExact, sequence));
}

TEST(PoolSentence, PoolsAsConfigured) {
  ModelConfig config;
  config.hidden_size = 2;
  const std::vector<float> states = {1, -4, 3, 8, 5, 2};
  config.pooling = "mean";
  EXPECT_EQ(PoolSentence(config, states, false), (std::vector<float>{3, 2}));
  config.pooling = "cls";
  EXPECT_EQ(PoolSentence(config, states, false), (std::vector<float>{1, -4}));
  config.pooling = "max";
  EXPECT_EQ(PoolSentence(config, states, false), (std::vector<float>{5, 8}));
  const std::vector<float> unit = PoolSentence(config, states, true);
  EXPECT_NEAR(unit[0] * unit[0] + unit[1] * unit[1], 1, 1e-6);
}

TEST(Encoder, NamesWhatItCannotCompute) {
  ModelConfig config = TinyEncoderConfig();
  const auto source = RandomEncoder(config, 1);
  config.hidden_act = "swiglu";
  EXPECT_EQ(EncoderParameters(config, *source).status().code(), absl::StatusCode::kUnimplemented);
  config = TinyEncoderConfig();
  config.pooling = "weightedmean";
  EXPECT_EQ(EncoderParameters(config, *source).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace quantd

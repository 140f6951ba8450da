// Blocks for calibration: the same numbers as the architectures, gradients as finite differences
// have them, and texts cut as they should be.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "memory_source.h"
#include "models/calibration/block_model.h"
#include "models/calibration/calibration_set.h"
#include "reference_forward.h"

namespace quantd {
namespace {

constexpr int64_t kTokens = 13;

std::vector<int32_t> Ids(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(i * 31 % vocabulary));
  return ids;
}

FloatBuffer ThroughAllBlocks(BlockModel& model, const std::vector<int32_t>& ids) {
  const std::vector<float> embedded = *model.Embed(ids);
  FloatBuffer hidden(embedded.begin(), embedded.end());
  for (int64_t i = 0; i < model.blocks(); ++i) {
    const auto block = *model.LoadBlock(i);
    hidden = block->Run(BlockValue::kInput, hidden, BlockValue::kOutput)[BlockValue::kOutput];
  }
  return hidden;
}

// Final norm and head in double.
std::vector<float> Logits(const MemorySource& source, const FloatBuffer& hidden) {
  const ModelConfig& config = source.config();
  const int64_t width = config.hidden_size, vocabulary = config.vocab_size;
  const std::vector<float> norm = source.Floats("model.norm.weight");
  const std::vector<float> head =
      source.Floats(config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight");
  std::vector<float> logits;
  for (size_t t = 0; t < hidden.size() / static_cast<size_t>(width); ++t) {
    const float* x = hidden.data() + t * width;
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * x[i];
    const double factor = 1 / std::sqrt(squares / width + config.norm_eps);
    for (int64_t v = 0; v < vocabulary; ++v) {
      double sum = 0;
      for (int64_t i = 0; i < width; ++i) sum += x[i] * factor * norm[i] * head[v * width + i];
      logits.push_back(static_cast<float>(sum));
    }
  }
  return logits;
}

// Every kind of decoder block.
std::vector<ModelConfig> Decoders() {
  ModelConfig biased = TinyDecoderConfig();
  biased.attention_bias = true;
  ModelConfig partial = TinyPhi3Config();  // in a context beyond the original
  partial.rotary_dim = 12;
  partial.max_position_embeddings = kTokens;
  partial.rope_scaling = {.kind = RopeScaling::Kind::kLongRope,
                          .original_max_positions = kTokens - 1,
                          .short_factors = {1, 1, 1, 1, 1, 1},
                          .long_factors = {1, 2, 4, 8, 16, 16},
                          .attention_factor = 1.2};
  return {TinyDecoderConfig(), biased, TinyPhi3Config(), partial, TinyQwen3Config()};
}

TEST(DenseBlock, ComputesWhatTheDecoderDoes) {
  for (const ModelConfig& config : Decoders()) {
    const auto source = RandomDecoder(config, 7);
    const std::vector<int32_t> ids = Ids(kTokens, config.vocab_size);
    const std::vector<double> expected = ReferenceLogits(*source, ids);
    auto model = *OpenBlockModel(RandomDecoder(config, 7), {.positions = kTokens});
    EXPECT_LT(RelativeError(Logits(*source, ThroughAllBlocks(*model, ids)), expected), 1e-5);
  }
}

TEST(DenseBlock, GivesTheSameBitsFusedOrNot) {
  const ModelConfig config = TinyDecoderConfig();
  auto fused = RandomDecoder(config, 7);
  FuseProjections(*fused);
  const std::vector<int32_t> ids = Ids(kTokens, config.vocab_size);
  auto one = *OpenBlockModel(RandomDecoder(config, 7), {.positions = kTokens});
  auto other = *OpenBlockModel(std::move(fused), {.positions = kTokens});
  EXPECT_EQ(ThroughAllBlocks(*other, ids), ThroughAllBlocks(*one, ids));
}

TEST(DenseBlock, ComputesWhatTheEncoderDoes) {
  const auto source = RandomEncoder(TinyEncoderConfig(), 7);
  const std::vector<int32_t> ids = Ids(kTokens, source->config().vocab_size);
  auto model = *OpenBlockModel(RandomEncoder(TinyEncoderConfig(), 7), {.positions = kTokens});
  EXPECT_LT(RelativeError(ThroughAllBlocks(*model, ids), ReferenceHiddenStates(*source, ids)),
            1e-5);
}

// sum of outputs times fixed numbers: a loss whose gradient by the outputs is known.
double Loss(CalibratedBlock& block, const std::vector<float>& hidden,
            const FloatBuffer& by_output) {
  const BlockPass pass = block.Run(BlockValue::kInput, hidden, BlockValue::kOutput);
  double loss = 0;
  for (size_t i = 0; i < by_output.size(); ++i) {
    loss += static_cast<double>(pass[BlockValue::kOutput][i]) * by_output[i];
  }
  return loss;
}

// Moves `parameter` along its gradient, and along a direction at random.
void CheckGradient(CalibratedBlock& block, const std::vector<float>& hidden,
                   const FloatBuffer& by_output, const std::string& parameter,
                   const FloatBuffer& gradient, std::mt19937& random) {
  const std::span<float> values = block.Parameter(parameter);
  ASSERT_EQ(gradient.size(), values.size()) << parameter;
  for (const bool along : {true, false}) {
    std::vector<float> direction(gradient.size());
    double length = 0, slope = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = along ? gradient[i] : static_cast<float>(static_cast<int>(random() % 3) - 1);
      length += static_cast<double>(direction[i]) * direction[i];
    }
    const double step = 1e-2 / std::sqrt(length);
    const std::vector<float> before(values.begin(), values.end());
    double ends[2];
    for (const int side : {0, 1}) {
      for (size_t i = 0; i < before.size(); ++i) {
        values[i] = static_cast<float>(before[i] + (side == 0 ? -step : step) * direction[i]);
      }
      ends[side] = Loss(block, hidden, by_output);
    }
    std::copy(before.begin(), before.end(), values.begin());
    for (size_t i = 0; i < direction.size(); ++i) {
      slope += static_cast<double>(direction[i]) * gradient[i];
    }
    const double measured = (ends[1] - ends[0]) / (2 * step);
    double norm = 0;
    for (const float g : gradient) norm += static_cast<double>(g) * g;
    EXPECT_NEAR(measured, slope, 5e-3 * std::sqrt(norm * length)) << parameter << along;
    EXPECT_GT(norm, 0) << parameter;
  }
}

void CheckGradients(BlockModel& model, int64_t vocabulary, bool has_biases) {
  const std::vector<float> hidden = *model.Embed(Ids(kTokens, vocabulary));
  const auto block = *model.LoadBlock(0);
  std::mt19937 random(3);
  FloatBuffer by_output(hidden.size());
  for (float& v : by_output) v = static_cast<float>(static_cast<int>(random() % 201) - 100) * 0.01f;
  std::vector<std::string> modules = block->norms();
  for (const BlockLinear& linear : block->linears()) modules.push_back(linear.module);
  BlockGradients gradients;
  for (const std::string& module : modules) {
    gradients[module] = {};
    // That of the keys has no slope: scores move alike.
    const bool has_bias = !block->Parameter(module + ".bias").empty();
    if (has_bias && module.find(".k") == std::string::npos) gradients[module + ".bias"] = {};
  }
  const BlockPass pass = block->Run(BlockValue::kInput, hidden, BlockValue::kOutput);
  block->Backward(pass, by_output, gradients, /*more=*/false);
  int biases = 0;
  for (const auto& [key, gradient] : gradients) {
    const bool is_bias = key.size() > 5 && key.substr(key.size() - 5) == ".bias";
    biases += is_bias;
    CheckGradient(*block, hidden, by_output, is_bias ? key : key + ".weight", gradient, random);
  }
  EXPECT_EQ(biases > 1, has_biases);
}

TEST(DenseBlock, GradientsAreThoseOfFiniteDifferences) {
  for (const ModelConfig& config : Decoders()) {
    SCOPED_TRACE(config.model_type);
    auto decoder = *OpenBlockModel(RandomDecoder(config, 5), {.positions = kTokens});
    CheckGradients(*decoder, config.vocab_size, config.attention_bias);
  }
  auto encoder = *OpenBlockModel(RandomEncoder(TinyEncoderConfig(), 5), {.positions = kTokens});
  CheckGradients(*encoder, TinyEncoderConfig().vocab_size, true);
}

TEST(DenseBlock, SumsOfGradientsMayWait) {
  auto model = *OpenBlockModel(RandomDecoder(TinyDecoderConfig(), 5), {.positions = kTokens});
  const auto block = *model->LoadBlock(0);
  const std::vector<float> hidden = *model->Embed(Ids(kTokens, TinyDecoderConfig().vocab_size));
  for (const std::optional<ProductRounding>& rounding :
       {std::optional<ProductRounding>(), {ProductRounding::kBFloat16}, {ProductRounding::kInt8}}) {
    block->SetRounding(BlockRounding::Everywhere(rounding));
    BlockGradients sums[2];
    for (const bool waits : {false, true}) {
      BlockGradients& gradients = sums[waits ? 1 : 0];
      for (const BlockLinear& linear : block->linears()) gradients[linear.module] = {};
      // Of sequences of several lengths.
      for (int64_t tokens = kTokens - 2; tokens <= kTokens; ++tokens) {
        const std::span<const float> rows =
            std::span(hidden).first(hidden.size() / kTokens * tokens);
        const BlockPass pass = block->Run(BlockValue::kInput, rows, BlockValue::kOutput);
        block->Backward(pass, FloatBuffer(rows.begin(), rows.end()), gradients,
                        waits && tokens < kTokens);
      }
    }
    EXPECT_EQ(sums[0], sums[1]);
    for (const auto& [module, gradient] : sums[1]) EXPECT_NE(gradient[0], 0) << module;
  }
}

TEST(DenseBlock, RunsHalvesFromTheirInputs) {
  auto model = *OpenBlockModel(RandomDecoder(TinyDecoderConfig(), 5), {.positions = kTokens});
  const std::vector<float> hidden = *model->Embed(Ids(kTokens, TinyDecoderConfig().vocab_size));
  const auto block = *model->LoadBlock(1);
  const BlockPass whole = block->Run(BlockValue::kInput, hidden, BlockValue::kOutput);
  using V = BlockValue;
  for (const auto& [from, until] : {std::pair{V::kAttentionInput, V::kAttentionOutput},
                                    {V::kAttended, V::kAttentionOutput},
                                    {V::kMlpInput, V::kMlpOutput},
                                    {V::kMlpHidden, V::kMlpOutput}}) {
    EXPECT_EQ(block->Run(from, whole[from], until)[until], whole[until]);
  }
}

// A run that was left at one place and goes on from what was kept of it.
void CheckContinues(BlockModel& model, int64_t vocabulary) {
  const std::vector<float> hidden = *model.Embed(Ids(kTokens, vocabulary));
  const auto block = *model.LoadBlock(1);
  using V = BlockValue;
  const BlockPass whole = block->Run(V::kInput, hidden, V::kOutput);
  const std::vector<std::vector<V>> kept = {{V::kInput},
                                            {V::kInput, V::kAttended},
                                            {V::kAfterAttention},
                                            {V::kAfterAttention, V::kMlpHidden}};
  for (const std::vector<V>& values : kept) {
    for (const V until : {V::kMlpHidden, V::kOutput}) {
      BlockPass pass;
      pass.tokens = kTokens;
      for (const V value : values) pass[value] = whole[value];
      block->Continue(pass, until);
      EXPECT_EQ(pass[until], whole[until]) << static_cast<int>(values.back());
    }
  }
}

TEST(DenseBlock, ContinuesWithTheSameBits) {
  for (const ModelConfig& config : Decoders()) {
    auto decoder = *OpenBlockModel(RandomDecoder(config, 5), {.positions = kTokens});
    CheckContinues(*decoder, config.vocab_size);
  }
  auto encoder = *OpenBlockModel(RandomEncoder(TinyEncoderConfig(), 5), {.positions = kTokens});
  CheckContinues(*encoder, TinyEncoderConfig().vocab_size);
}

TEST(CalibrationText, IsPlainOrRecords) {
  EXPECT_EQ(ParseCalibrationText("{ a brace\nmore")->samples.size(), 1u);
  const auto records =
      ParseCalibrationText("\n{\"text\": \"a\\nb\"}\r\n\n{\"text\":\"c\",\"x\":1}\n");
  ASSERT_TRUE(records.ok()) << records.status();
  EXPECT_TRUE(records->is_records);
  EXPECT_EQ(records->samples, (std::vector<std::string>{"a\nb", "c"}));
  const auto refused = [](const std::string& text, absl::string_view part) {
    const absl::Status status = ParseCalibrationText(text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  };
  refused("", "empty");
  refused(" \n\t", "empty");
  refused(std::string("abc\xc3(", 5), "byte 3");
  refused("{\"text\": \"a\"}\n{\"test\": 1}\n", "line 2");
  refused("{\"text\": \"a\"}\nplain\n", "line 2");
}

TEST(CalibrationSet, CutsWindowsAndRecords) {
  auto source = RandomDecoder(TinyDecoderConfig(), 5);
  source->SetSideFile("tokenizer.json", WordTokenizerJson(97));
  std::string text;
  for (int i = 0; i < 95; ++i) absl::StrAppend(&text, "t", i, " ");
  const CalibrationSpec spec = {.nsamples = 4, .seqlen = 10};
  const auto set = CutCalibrationText(*source, *ParseCalibrationText(text), spec);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->sequences.size(), 4u);
  EXPECT_TRUE(set->warnings.empty());
  // 9 windows; every second one and a bit.
  const std::vector<int32_t> starts = {0, 20, 40, 60};
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(set->sequences[i].size(), 10u);
    EXPECT_EQ(set->sequences[i][0], starts[i]);
  }
  const auto few = CutCalibrationText(*source, *ParseCalibrationText(text), {.seqlen = 40});
  EXPECT_EQ(few->sequences.size(), 2u);
  EXPECT_EQ(few->warnings.size(), 1u);
  const auto shorter = CutCalibrationText(*source, *ParseCalibrationText("t1 t2"), spec);
  EXPECT_TRUE(absl::IsInvalidArgument(shorter.status()));
  EXPECT_NE(shorter.status().message().find("2 tokens"), absl::string_view::npos);
  const auto records = CutCalibrationText(
      *source,
      *ParseCalibrationText(absl::StrCat("{\"text\":\"t1 t2\"}\n{\"text\":\"", text, "\"}")), spec);
  ASSERT_TRUE(records.ok()) << records.status();
  ASSERT_EQ(records->sequences.size(), 1u);
  EXPECT_EQ(records->sequences[0].size(), 10u);
}

TEST(CalibrationSet, ModelsWriteTheirOwn) {
  const ModelConfig config = TinyDecoderConfig();
  const CalibrationSpec spec = {.nsamples = 18, .seqlen = 12};
  const auto write = [&](uint64_t seed, int threads) {
    SetComputeThreads(threads);
    auto text = WriteOwnText(RandomDecoder(config, 5), spec, {.seed = seed});
    SetComputeThreads(0);
    EXPECT_TRUE(text.ok()) << text.status();
    return *text;
  };
  const TokenSequences text = write(1, 1);
  ASSERT_EQ(text.size(), 18u);
  for (const auto& sequence : text) {
    ASSERT_EQ(sequence.size(), 12u);
    for (const int32_t id : sequence) EXPECT_TRUE(id >= 0 && id < config.vocab_size);
  }
  EXPECT_EQ(write(1, 3), text);
  EXPECT_NE(write(2, 1), text);
  EXPECT_NE(text[0], text[1]);
}

}  // namespace
}  // namespace quantd

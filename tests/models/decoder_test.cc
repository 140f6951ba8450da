#include "models/architectures/decoder.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory_source.h"
#include "reference_forward.h"

namespace quantd {
namespace {

std::vector<int32_t> SomeIds(int count, int32_t vocab) {
  std::vector<int32_t> ids(count);
  for (int i = 0; i < count; ++i) ids[i] = (i * 31 + 7) % vocab;
  return ids;
}

// A decoder on the CPU with everything that a forward pass needs.
class Rig {
 public:
  explicit Rig(const MemorySource& source, Compute compute = Compute::kExact)
      : backend_(CreateBackend("cpu").value()) {
    const absl::StatusOr<ParameterList> parameters = DecoderParameters(source.config(), source);
    EXPECT_TRUE(parameters.ok()) << parameters.status();
    const absl::Status checked = CheckParameters(source, *parameters);
    EXPECT_TRUE(checked.ok()) << checked;
    Decoder::Options options;
    options.compute = compute;
    options.context_length = 256;
    options.max_batch_tokens = 256;
    options.max_logit_rows = 256;
    options.on_progress = [](int64_t, int64_t) { return absl::OkStatus(); };
    auto decoder = Decoder::Load(source, *backend_, options);
    EXPECT_TRUE(decoder.ok()) << decoder.status();
    decoder_ = std::move(decoder).value();
  }

  std::unique_ptr<KvCache> NewCache() {
    return backend_->CreateKvCache(decoder_->kv_shape(256)).value();
  }

  // Logits of every row of one pass.
  std::vector<float> Run(const std::vector<int32_t>& ids,
                         const std::vector<SequenceRows>& sequences) {
    std::vector<int32_t> rows(ids.size());
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<int32_t>(i);
    std::vector<float> logits(ids.size() * decoder_->vocab_size());
    absl::Status status;
    RunCompute(TaskPriority::kInteractive, [&] {
      status = decoder_->Forward(ids, sequences);
      if (status.ok()) status = decoder_->Logits(rows, logits);
    });
    EXPECT_TRUE(status.ok()) << status;
    return logits;
  }

  std::vector<float> RunAlone(const std::vector<int32_t>& ids) {
    const auto cache = NewCache();
    return Run(ids, {{.cache = cache.get(), .rows = static_cast<int32_t>(ids.size())}});
  }

  // The same sequence in pieces of `piece` tokens.
  std::vector<float> RunInPieces(const std::vector<int32_t>& ids, int piece) {
    const auto cache = NewCache();
    std::vector<float> logits;
    for (size_t begin = 0; begin < ids.size(); begin += piece) {
      const size_t end = std::min(ids.size(), begin + piece);
      const std::vector<float> part = Run({ids.begin() + begin, ids.begin() + end},
                                          {{.cache = cache.get(),
                                            .rows = static_cast<int32_t>(end - begin),
                                            .position = static_cast<int32_t>(begin)}});
      logits.insert(logits.end(), part.begin(), part.end());
    }
    return logits;
  }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
};

std::vector<double> Doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

struct Case {
  const char* name;
  void (*change)(ModelConfig&);
};

void MakeLongRope(ModelConfig& config, int64_t original) {
  config.rotary_dim = 12;
  config.rope_scaling = {.kind = RopeScaling::Kind::kLongRope,
                         .original_max_positions = original,
                         .short_factors = {1, 1.1f, 1.3f, 1.5f, 2, 3},
                         .long_factors = {1, 2, 4, 8, 16, 16},
                         .attention_factor = 1.2};
}

class DecoderVariants : public testing::TestWithParam<Case> {};

TEST_P(DecoderVariants, GiveTheReferenceLogits) {
  ModelConfig config = TinyDecoderConfig();
  GetParam().change(config);
  const auto source = RandomDecoder(config, 17);
  const std::vector<int32_t> ids = SomeIds(33, 97);
  const std::vector<double> expected = ReferenceLogits(*source, ids);
  EXPECT_LT(RelativeError(Rig(*source).RunAlone(ids), expected), 1e-5);
  EXPECT_LT(RelativeError(Rig(*source, Compute::kFast).RunAlone(ids), expected), 2e-2);
}

INSTANTIATE_TEST_SUITE_P(
    All, DecoderVariants,
    testing::Values(Case{"Llama", [](ModelConfig&) {}},
                    Case{"Tied", [](ModelConfig& c) { c.tie_word_embeddings = true; }},
                    Case{"Qwen2", [](ModelConfig& c) { c.attention_bias = true; }},
                    Case{"MultiHead", [](ModelConfig& c) { c.num_key_value_heads = 4; }},
                    Case{"MultiQuery", [](ModelConfig& c) { c.num_key_value_heads = 1; }},
                    Case{"LinearRope",
                         [](ModelConfig& c) {
                           c.rope_scaling.kind = RopeScaling::Kind::kLinear;
                           c.rope_scaling.factor = 4;
                         }},
                    Case{"Llama3Rope",
                         [](ModelConfig& c) {
                           c.rope_scaling.kind = RopeScaling::Kind::kLlama3;
                           c.rope_scaling.factor = 8;
                           c.rope_scaling.original_max_positions = 64;
                         }},
                    Case{"RopeDivisors",
                         [](ModelConfig& c) {
                           c.rope_scaling.frequency_divisors = {1, 1, 1.5f, 2, 3, 4, 8, 8};
                         }},
                    Case{"Qwen3", [](ModelConfig& c) { c = TinyQwen3Config(); }},
                    Case{"Phi3", [](ModelConfig& c) { c = TinyPhi3Config(); }},
                    Case{"PartialRotary", [](ModelConfig& c) { c.rotary_dim = 12; }},
                    Case{"LongRopeWithinTheOriginal",
                         [](ModelConfig& c) { MakeLongRope(c, c.max_position_embeddings); }},
                    Case{"LongRopeBeyondTheOriginal",
                         [](ModelConfig& c) { MakeLongRope(c, c.max_position_embeddings - 1); }}),
    [](const testing::TestParamInfo<Case>& param) { return param.param.name; });

class GoldenLlamaLogits : public testing::TestWithParam<Compute> {};

TEST_P(GoldenLlamaLogits, EqualTransformers) {
  const GoldenLlama golden = LoadGoldenLlama();
  const bool exact = GetParam() == Compute::kExact;
  Rig rig(*golden.source, GetParam());
  const size_t per_sequence = golden.logits.size() / golden.input_ids.size();
  for (size_t i = 0; i < golden.input_ids.size(); ++i) {
    const auto begin = golden.logits.begin() + i * per_sequence;
    const std::vector<double> expected(begin, begin + per_sequence);
    const double error = RelativeError(rig.RunAlone(golden.input_ids[i]), expected);
    EXPECT_LT(error, exact ? 1e-3 : 2e-2);
    RecordProperty("relative_error", std::to_string(error));
  }
}

INSTANTIATE_TEST_SUITE_P(Both, GoldenLlamaLogits, testing::Values(Compute::kExact, Compute::kFast));

TEST(Decoder, GivesTheSameLogitsForAnyPieces) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 3);
  const std::vector<int32_t> ids = SomeIds(129, 97);
  Rig rig(*source);
  const std::vector<double> whole = Doubles(rig.RunAlone(ids));
  for (const int piece : {1, 31, 33, 128}) {
    EXPECT_LT(RelativeError(rig.RunInPieces(ids, piece), whole), 1e-5) << piece;
  }
}

TEST(Decoder, GivesTheSameLogitsInABatch) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 4);
  Rig rig(*source, Compute::kFast);
  const std::vector<std::vector<int32_t>> sequences = {SomeIds(1, 97), SomeIds(33, 89),
                                                       SomeIds(31, 83), SomeIds(2, 97)};
  std::vector<int32_t> ids;
  std::vector<std::unique_ptr<KvCache>> caches;
  std::vector<SequenceRows> rows;
  std::vector<float> alone;
  for (const std::vector<int32_t>& sequence : sequences) {
    caches.push_back(rig.NewCache());
    rows.push_back({.cache = caches.back().get(),
                    .first_row = static_cast<int32_t>(ids.size()),
                    .rows = static_cast<int32_t>(sequence.size())});
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    const std::vector<float> logits = rig.RunAlone(sequence);
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  EXPECT_LT(RelativeError(rig.Run(ids, rows), Doubles(alone)), 1e-6);
}

// Pairs of gate and up panels, and, at 81, rows that do not fill them.
class FusedProjections : public testing::TestWithParam<int64_t> {};

TEST_P(FusedProjections, GiveTheBitsOfTheUnfusedModel) {
  ModelConfig config = TinyDecoderConfig();
  config.intermediate_size = GetParam();
  const auto unfused = RandomDecoder(config, 6), fused = RandomDecoder(config, 6);
  FuseProjections(*fused);
  ASSERT_TRUE(fused->Has("model.layers.2.self_attn.qkv_proj.weight"));
  const std::vector<int32_t> ids = SomeIds(33, 97);
  for (const Compute compute : {Compute::kExact, Compute::kFast}) {
    EXPECT_EQ(Rig(*fused, compute).RunAlone(ids), Rig(*unfused, compute).RunAlone(ids));
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, FusedProjections, testing::Values(80, 81, 96));

TEST(Decoder, NamesFusedParametersThatDoNotFit) {
  const auto fused = RandomDecoder(TinyPhi3Config(), 6);
  const auto refused = [&fused](const char* part) {
    const absl::Status status =
        CheckParameters(*fused, *DecoderParameters(fused->config(), *fused));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(part));
  };
  const std::string name = "model.layers.1.self_attn.qkv_proj.weight";
  fused->SetFloats(name, {127, 48}, std::vector<float>(127 * 48));
  refused("qkv_proj.weight\" has shape [127, 48], expected [128, 48]");
  fused->Erase(name);
  refused("qkv_proj.weight\" is missing");
  fused->SetFloats(name, {128, 48}, std::vector<float>(128 * 48));
  fused->SetFloats("model.layers.1.mlp.gate_proj.weight", {80, 48}, std::vector<float>(80 * 48));
  refused("gate_proj.weight\" of shape [80, 48] is not part of this architecture");
}

TEST(Decoder, ReadsParametersWithoutThePrefix) {
  ModelConfig config = TinyDecoderConfig();
  config.tie_word_embeddings = true;
  const auto source = RandomDecoder(config, 5);
  MemorySource bare(config);
  for (const SourceParameter& parameter : source->parameters()) {
    bare.Set(parameter.name.substr(std::string("model.").size()),
             source->Read(parameter.name).value());
  }
  const std::vector<int32_t> ids = SomeIds(9, 97);
  EXPECT_EQ(Rig(bare).RunAlone(ids), Rig(*source).RunAlone(ids));
}

}  // namespace
}  // namespace quantd

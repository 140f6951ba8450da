// config.json of decoders that are not plain Llamas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "config_text.h"

namespace quantd {
namespace {

using absl::StatusCode;

std::string Phi3(const std::map<std::string, std::string>& changes) {
  std::map<std::string, std::string> all = {{"architectures", R"(["Phi3ForCausalLM"])"},
                                            {"model_type", R"("phi3")"}};
  for (const auto& [key, value] : changes) all[key] = value;
  return Llama(all);
}

std::string Qwen3(const std::map<std::string, std::string>& changes) {
  std::map<std::string, std::string> all = {{"architectures", R"(["Qwen3ForCausalLM"])"},
                                            {"model_type", R"("qwen3")"}};
  for (const auto& [key, value] : changes) all[key] = value;
  return Llama(all);
}

// As long as a head of `pairs` pairs asks for.
std::string LongRope(int pairs, const std::string& type, const std::string& more = "") {
  std::string factors;
  for (int i = 0; i < pairs; ++i) absl::StrAppend(&factors, i > 0 ? "," : "", 1 + i);
  return absl::StrCat(R"({"type":")", type, R"(","short_factor":[)", factors,
                      R"(],"long_factor":[)", factors, "]", more, "}");
}

TEST(ParseHfConfig, ReadsQwen3) {
  const auto config =
      *ParseHfConfig(Qwen3({{"use_sliding_window", "false"}, {"sliding_window", "64"}}));
  EXPECT_TRUE(config.qk_norm);
  EXPECT_FALSE(config.attention_bias || config.fused_projections);
  EXPECT_EQ(config.head_dim, 128);  // Transformers' default, whatever hidden_size is
  EXPECT_EQ(config.sliding_window, 0);
  EXPECT_EQ(ParseHfConfig(Qwen3({{"head_dim", "48"}}))->head_dim, 48);
  EXPECT_EQ(ParseHfConfig(Qwen3({{"head_dim", "null"}}))->head_dim, 64);
  EXPECT_EQ(ParseHfConfig(Qwen3({{"num_key_value_heads", "null"}}))->num_key_value_heads, 4);
  EXPECT_TRUE(ParseHfConfig(Qwen3({{"attention_bias", "true"}}))->attention_bias);
  ExpectRefused(Qwen3({{"use_sliding_window", "true"}, {"max_window_layers", "1"}}),
                StatusCode::kUnimplemented, "max_window_layers");
}

TEST(ParseHfConfig, ReadsPhi3InBothSpellings) {
  const auto plain = *ParseHfConfig(Phi3({{"rope_scaling", "null"}, {"sliding_window", "100"}}));
  EXPECT_TRUE(plain.fused_projections);
  EXPECT_EQ(plain.rotary_dims(), 64);
  EXPECT_EQ(plain.sliding_window, 100);
  EXPECT_EQ(plain.rope_scaling.kind, RopeScaling::Kind::kNone);
  const std::string four = Phi3({{"max_position_embeddings", "131072"},
                                 {"original_max_position_embeddings", "4096"},
                                 {"partial_rotary_factor", "0.75"},
                                 {"rope_scaling", LongRope(24, "longrope")}});
  const std::string five =
      Phi3({{"max_position_embeddings", "131072"},
            {"original_max_position_embeddings", "4096"},
            {"rope_parameters",
             LongRope(24, "su", R"(,"partial_rotary_factor":0.75,"rope_theta":10000.0)")}});
  for (const std::string& json : {four, five}) {
    const auto config = ParseHfConfig(json);
    ASSERT_TRUE(config.ok()) << config.status();
    const RopeScaling& rope = config->rope_scaling;
    EXPECT_EQ(rope.kind, RopeScaling::Kind::kLongRope);
    EXPECT_EQ(config->rotary_dims(), 48);
    EXPECT_EQ(rope.original_max_positions, 4096);
    EXPECT_EQ(rope.long_factors.size(), 24u);
    EXPECT_EQ(rope.short_factors[23], 24);
    // sqrt(1 + ln 32 / ln 4096).
    EXPECT_NEAR(rope.attention_factor, std::sqrt(1 + 5.0 / 12), 1e-12);
  }
  const auto factor_of = [](const std::string& more) {
    return ParseHfConfig(Phi3({{"rope_scaling", LongRope(32, "longrope", more)}}))
        ->rope_scaling.attention_factor;
  };
  EXPECT_EQ(factor_of(R"(,"attention_factor":1.5)"), 1.5);
  EXPECT_NEAR(factor_of(R"(,"factor":4096)"), std::sqrt(2.0), 1e-12);
  EXPECT_EQ(factor_of(""), 1);  // no longer than the original context
}

TEST(ParseHfConfig, NamesWhatIsWrongWithPhi3sPositions) {
  const auto refused = [](const std::string& scaling, StatusCode code, const std::string& part) {
    ExpectRefused(Phi3({{"rope_scaling", scaling}}), code, part);
  };
  refused(LongRope(31, "longrope"), StatusCode::kInvalidArgument, "short_factor has 31 entries");
  refused(R"({"type":"longrope","short_factor":[]})", StatusCode::kInvalidArgument, "short_factor");
  refused(R"({"type":"longrope"})", StatusCode::kInvalidArgument,
          "rope_scaling: short_factor is missing, expected 32 positive numbers");
  refused(absl::StrReplaceAll(LongRope(32, "longrope"), {{"[1,", "[0,"}}),
          StatusCode::kInvalidArgument, "short_factor");
  refused(LongRope(32, "longrope", R"(,"attention_factor":-1)"), StatusCode::kInvalidArgument,
          "attention_factor");
  refused(LongRope(32, "yarn"), StatusCode::kUnimplemented,
          "'yarn' of Phi3ForCausalLM is not supported; supported are default and longrope");
  refused(R"({"type":"linear","factor":2})", StatusCode::kUnimplemented, "'linear'");
  ExpectRefused(Phi3({{"partial_rotary_factor", "0.71"}}), StatusCode::kInvalidArgument,
                "partial_rotary_factor 0.71 of head_dim 64 rotates 45");
  for (const char* value : {"0", "-1", "1.5", "0.01", "\"1\""}) {
    ExpectRefused(Phi3({{"partial_rotary_factor", value}}), StatusCode::kInvalidArgument,
                  "partial_rotary_factor");
  }
  ExpectRefused(Llama({{"rope_parameters", R"({"partial_rotary_factor":0.5})"}}),
                StatusCode::kUnimplemented, "partial_rotary_factor");
  ExpectRefused(Llama({{"rope_scaling", LongRope(32, "longrope")}}), StatusCode::kUnimplemented,
                "'longrope' of LlamaForCausalLM");
}

TEST(WriteHfConfig, MakesQwen3AndPhi3FromFields) {
  for (const std::string& json :
       {Qwen3({{"head_dim", "48"}, {"attention_bias", "true"}}), Phi3({{"sliding_window", "64"}}),
        Phi3({{"partial_rotary_factor", "0.75"},
              {"original_max_position_embeddings", "128"},
              {"rope_scaling", LongRope(24, "longrope", R"(,"attention_factor":1.25)")}})}) {
    ModelConfig config = *ParseHfConfig(json);
    config.config_json.clear();
    const auto written = WriteHfConfig(config, "");
    ASSERT_TRUE(written.ok()) << written.status();
    const auto again = ParseHfConfig(*written);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(again->architecture, config.architecture);
    EXPECT_EQ(again->qk_norm, config.qk_norm);
    EXPECT_EQ(again->fused_projections, config.fused_projections);
    EXPECT_EQ(again->attention_bias, config.attention_bias);
    EXPECT_EQ(again->sliding_window, config.sliding_window);
    EXPECT_EQ(again->head_dim, config.head_dim);
    EXPECT_EQ(again->rotary_dims(), config.rotary_dims());
    const RopeScaling &rope = again->rope_scaling, &expected = config.rope_scaling;
    EXPECT_EQ(rope.kind, expected.kind);
    EXPECT_EQ(rope.long_factors, expected.long_factors);
    EXPECT_EQ(rope.short_factors, expected.short_factors);
    EXPECT_EQ(rope.attention_factor, expected.attention_factor);
    EXPECT_EQ(rope.original_max_positions, expected.original_max_positions);
  }
  // Phi3Config fills absent ids with some that a smaller vocabulary does not have.
  ModelConfig phi3 = *ParseHfConfig(Phi3({{"eos_token_id", ""}}));
  phi3.config_json.clear();
  EXPECT_THAT(*WriteHfConfig(phi3, ""), testing::HasSubstr("\"eos_token_id\": null"));
}

}  // namespace
}  // namespace quantd

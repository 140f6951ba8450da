#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/gguf/model_mapping.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;
using T = GgmlType;

ModelConfig Model(int64_t layers, int64_t heads, int64_t kv_heads, bool tied = false) {
  ModelConfig config;
  config.model_type = "llama";
  config.num_hidden_layers = layers;
  config.num_attention_heads = heads;
  config.num_key_value_heads = kv_heads;
  config.tie_word_embeddings = tied;
  return config;
}

GgmlType TypeOf(absl::string_view file_type, const ModelConfig& config, absl::string_view name,
                int64_t cols = 4096, bool importance = false) {
  const auto policy = GgufTypePolicy::ForFileType(file_type, /*pure=*/false);
  EXPECT_TRUE(policy.ok()) << policy.status();
  return policy->TypeFor(config, name, {256, cols}, importance);
}

TEST(TypePolicyTest, FileTypeNumbersAreLlamaCpps) {
  for (const auto& [name, number] : {std::pair{"F32", 0},
                                     {"F16", 1},
                                     {"Q4_0", 2},
                                     {"Q8_0", 7},
                                     {"Q2_K", 10},
                                     {"Q3_K_L", 13},
                                     {"Q4_K_S", 14},
                                     {"Q5_K_M", 17},
                                     {"Q6_K", 18},
                                     {"IQ4_NL", 25},
                                     {"IQ4_XS", 30},
                                     {"BF16", 32},
                                     {"TQ2_0", 37},
                                     {"MXFP4_MOE", 38}}) {
    EXPECT_EQ(GgufTypePolicy::ForFileType(name, false)->file_type(), static_cast<uint32_t>(number));
  }
}

TEST(TypePolicyTest, ShortNamesAndLowerCaseAreAccepted) {
  EXPECT_EQ(GgufTypePolicy::ForFileType("q4_k", false)->name(), "Q4_K_M");
  EXPECT_EQ(GgufTypePolicy::ForFileType("Q5_K", false)->name(), "Q5_K_M");
  EXPECT_EQ(GgufTypePolicy::ForFileType("Q3_K", false)->name(), "Q3_K_M");
}

// llama-quantize's branch of its own for fused attention.
TEST(TypePolicyTest, FusedAttention) {
  ModelConfig config = Model(32, 32, 32);
  config.model_type = "phi3";
  for (const auto& [file_type, type] : {std::pair{"Q4_K_M", T::kQ5_K},
                                        {"Q5_K_M", T::kQ6_K},
                                        {"Q3_K_M", T::kQ4_K},
                                        {"Q3_K_L", T::kQ4_K},
                                        {"IQ3_M", T::kQ4_K},
                                        {"Q4_K_S", T::kQ4_K},
                                        {"Q2_K", T::kQ2_K},
                                        {"Q8_0", T::kQ8_0}}) {
    EXPECT_EQ(TypeOf(file_type, config, "blk.7.attn_qkv.weight"), type) << file_type;
  }
}

TEST(TypePolicyTest, UnknownNamesListTheKnown) {
  const auto policy = GgufTypePolicy::ForFileType("Q9_K\n", false);
  EXPECT_EQ(policy.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(policy.status().message(), HasSubstr("\"Q9_K\\n\"; known: F32, "));
}

TEST(TypePolicyTest, VectorsAndNormsAreF32) {
  const ModelConfig config = Model(32, 32, 8);
  const auto policy = GgufTypePolicy::ForFileType("Q4_0", true);
  EXPECT_EQ(policy->TypeFor(config, "blk.0.attn_q.bias", {4096}, false), T::kF32);
  EXPECT_EQ(policy->TypeFor(config, "output_norm.weight", {4096}, false), T::kF32);
  EXPECT_EQ(policy->TypeFor(config, "position_embd.weight", {512, 384}, false), T::kF32);
  EXPECT_EQ(policy->TypeFor(config, "blk.0.attn_q.weight", {256, 4096}, false), T::kQ4_0);
}

TEST(TypePolicyTest, MoreBitsAtBothEndsAndEveryThirdLayer) {
  const ModelConfig config = Model(32, 32, 32);
  std::string layers;
  for (int i = 0; i < 32; ++i) {
    const std::string name = absl::StrCat("blk.", i, ".ffn_down.weight");
    if (TypeOf("Q4_K_M", config, name) == T::kQ6_K) absl::StrAppend(&layers, i, " ");
  }
  EXPECT_EQ(layers, "0 1 2 3 6 9 12 15 18 21 24 27 28 29 30 31 ");
}

TEST(TypePolicyTest, ValuesOfGroupedAttentionGetMoreBits) {
  const std::string v = "blk.9.attn_v.weight";
  EXPECT_EQ(TypeOf("Q2_K", Model(32, 32, 32), v), T::kQ3_K);
  EXPECT_EQ(TypeOf("Q2_K", Model(32, 32, 8), v), T::kQ4_K);
  EXPECT_EQ(TypeOf("IQ4_XS", Model(32, 32, 16), v), T::kIQ4_XS);
  EXPECT_EQ(TypeOf("IQ4_XS", Model(32, 32, 8), v), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q3_K_S", Model(80, 64, 8), v), T::kQ5_K);  // 70B
}

TEST(TypePolicyTest, SmallMixtures) {
  const ModelConfig config = Model(32, 32, 32);
  EXPECT_EQ(TypeOf("Q4_K_S", config, "blk.3.attn_v.weight"), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q4_K_S", config, "blk.4.attn_v.weight"), T::kQ4_K);
  EXPECT_EQ(TypeOf("Q4_K_S", config, "blk.3.ffn_down.weight"), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q3_K_M", config, "blk.1.attn_v.weight"), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q3_K_M", config, "blk.2.attn_v.weight"), T::kQ4_K);
  EXPECT_EQ(TypeOf("Q3_K_M", config, "blk.1.ffn_down.weight"), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q3_K_M", config, "blk.2.ffn_down.weight"), T::kQ4_K);
  EXPECT_EQ(TypeOf("Q3_K_L", config, "blk.9.attn_output.weight"), T::kQ5_K);
  EXPECT_EQ(TypeOf("Q2_K_S", config, "blk.3.ffn_down.weight"), T::kQ4_K);
  EXPECT_EQ(TypeOf("Q2_K_S", config, "blk.4.ffn_down.weight"), T::kQ2_K);
  EXPECT_EQ(TypeOf("Q4_0", config, "blk.0.ffn_down.weight"), T::kQ4_0);
  EXPECT_EQ(TypeOf("Q4_0", config, "blk.0.ffn_down.weight", 4096, /*importance=*/true), T::kQ4_1);
  EXPECT_EQ(TypeOf("MXFP4", config, "blk.0.ffn_up.weight"), T::kMXFP4);
  EXPECT_EQ(TypeOf("MXFP4", config, "token_embd.weight"), T::kQ8_0);
  EXPECT_EQ(TypeOf("MXFP4_MOE", config, "blk.0.ffn_up.weight"), T::kQ8_0);
}

TEST(TypePolicyTest, OutputAndTiedTables) {
  EXPECT_EQ(TypeOf("Q4_K_M", Model(4, 4, 4), "output.weight"), T::kQ6_K);
  EXPECT_EQ(TypeOf("Q4_K_M", Model(4, 4, 4), "token_embd.weight"), T::kQ4_K);
  EXPECT_EQ(TypeOf("Q4_K_M", Model(4, 4, 4, /*tied=*/true), "token_embd.weight"), T::kQ6_K);
  EXPECT_EQ(TypeOf("Q8_0", Model(4, 4, 4), "output.weight"), T::kQ8_0);
  // SmolLM2's Q4_1 file: 576 columns are no multiple of 256.
  EXPECT_EQ(TypeOf("Q4_1", Model(30, 9, 3, /*tied=*/true), "token_embd.weight", 576), T::kQ8_0);
  EXPECT_EQ(TypeOf("F16", Model(4, 4, 4), "output.weight"), T::kF16);
}

TEST(TypePolicyTest, NarrowRowsFallBack) {
  const ModelConfig config = Model(32, 32, 32);
  const std::string up = "blk.9.ffn_up.weight";
  EXPECT_EQ(TypeOf("Q4_K_M", config, up, 576), T::kQ5_0);
  EXPECT_EQ(TypeOf("Q5_K_M", config, up, 576), T::kQ5_1);
  EXPECT_EQ(TypeOf("Q6_K", config, up, 576), T::kQ8_0);
  EXPECT_EQ(TypeOf("Q2_K", config, up, 576), T::kQ4_0);
  EXPECT_EQ(TypeOf("Q3_K_M", config, up, 576), T::kQ4_0);
  EXPECT_EQ(TypeOf("IQ4_XS", config, up, 576), T::kIQ4_NL);
  EXPECT_EQ(TypeOf("TQ2_0", config, up, 576), T::kQ4_0);
  for (const int64_t cols : {1, 31, 33, 129, 48}) {
    EXPECT_EQ(TypeOf("Q4_K_M", config, up, cols), T::kF16);
    EXPECT_EQ(TypeOf("Q4_0", config, up, cols), T::kF16);
  }
}

TEST(TypePolicyTest, PureAndOverrides) {
  auto policy = *GgufTypePolicy::ForFileType("Q4_K_M", /*pure=*/true);
  const ModelConfig config = Model(32, 32, 32);
  EXPECT_EQ(policy.TypeFor(config, "output.weight", {512, 256}, false), T::kQ4_K);
  EXPECT_EQ(policy.TypeFor(config, "blk.0.ffn_down.weight", {512, 256}, false), T::kQ4_K);
  EXPECT_EQ(policy.TypeFor(config, "blk.0.ffn_down.weight", {512, 576}, false), T::kQ5_0);
  const auto experts = *GgufTypePolicy::ForFileType("MXFP4_MOE", /*pure=*/true);
  EXPECT_EQ(experts.TypeFor(config, "output.weight", {512, 256}, false), T::kMXFP4);
  policy.set_output_tensor_type(T::kQ8_0);
  policy.set_token_embedding_type(T::kQ2_K);
  EXPECT_EQ(policy.TypeFor(config, "output.weight", {512, 256}, false), T::kQ8_0);
  EXPECT_EQ(policy.TypeFor(config, "token_embd.weight", {512, 256}, false), T::kQ2_K);
}

TEST(TypePolicyTest, VeryLowBitsNeedImportance) {
  const auto needs = [](absl::string_view file_type, absl::string_view name, GgmlType type) {
    return (*GgufTypePolicy::ForFileType(file_type, false)).NeedsImportance(name, type);
  };
  for (const T type : {T::kIQ1_S, T::kIQ1_M, T::kIQ2_XXS, T::kIQ2_XS, T::kIQ2_S, T::kIQ3_XXS}) {
    EXPECT_TRUE(needs("IQ1_S", "blk.0.ffn_up.weight", type));
  }
  EXPECT_FALSE(needs("IQ2_M", "token_embd.weight", T::kIQ2_S));
  EXPECT_TRUE(needs("IQ2_XXS", "token_embd.weight", T::kIQ2_XXS));  // cannot be made without
  EXPECT_FALSE(needs("IQ3_S", "blk.0.ffn_up.weight", T::kIQ3_S));
  EXPECT_FALSE(needs("Q2_K", "blk.0.ffn_up.weight", T::kQ2_K));
  EXPECT_TRUE(needs("Q2_K_S", "blk.0.ffn_up.weight", T::kQ2_K));
}

TEST(TypePolicyTest, MixturesWithImportance) {
  const ModelConfig config = Model(32, 32, 32);
  const auto type = [&](absl::string_view file_type, absl::string_view name) {
    return TypeOf(file_type, config, name, 4096, /*importance=*/true);
  };
  EXPECT_EQ(type("Q5_0", "blk.0.ffn_down.weight"), T::kQ5_1);
  EXPECT_EQ(type("IQ4_XS", "blk.0.ffn_down.weight"), T::kIQ4_XS);
  EXPECT_EQ(type("IQ3_XXS", "blk.9.attn_v.weight"), T::kIQ3_XXS);
  EXPECT_EQ(type("IQ3_XXS", "blk.9.attn_q.weight"), T::kIQ2_S);
  EXPECT_EQ(type("IQ3_XXS", "blk.9.attn_output.weight"), T::kIQ3_S);
  EXPECT_EQ(type("IQ3_XS", "blk.9.ffn_gate.weight"), T::kIQ3_XXS);
  EXPECT_EQ(type("IQ3_XS", "blk.0.ffn_gate.weight"), T::kIQ3_S);
  EXPECT_EQ(type("IQ2_M", "blk.9.attn_v.weight"), T::kIQ3_S);
  EXPECT_EQ(type("IQ2_M", "token_embd.weight"), T::kIQ3_S);
  EXPECT_EQ(type("IQ2_XS", "blk.0.ffn_down.weight"), T::kQ2_K);
  EXPECT_EQ(type("IQ1_M", "blk.9.attn_output.weight"), T::kIQ2_XXS);
  EXPECT_EQ(type("IQ1_S", "output.weight"), T::kQ5_K);
}

}  // namespace
}  // namespace quantd

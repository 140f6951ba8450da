// Metadata of decoders that are not plain Llamas.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "quantizers/codecs/gguf/model_mapping.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

// One layer.
GgufHeader MadeHeader(const std::string& architecture,
                      const std::vector<std::pair<std::string, Shape>>& tensors) {
  GgufHeader header;
  GgufMetadata& m = header.metadata;
  m.SetString("general.architecture", architecture);
  m.SetU32(architecture + ".block_count", 1);
  m.SetU32(architecture + ".context_length", 64);
  m.SetU32(architecture + ".embedding_length", 8);
  m.SetU32(architecture + ".feed_forward_length", 16);
  m.SetU32(architecture + ".attention.head_count", 2);
  for (const auto& [name, shape] : tensors) {
    header.tensors.push_back({name, GgmlType::kF32, shape, 0, 0});
  }
  return header;
}

// One layer of 2 heads over 1 of 6 dimensions, a hidden size of 8.
GgufHeader Qwen3Header() {
  GgufHeader header = MadeHeader("qwen3", {{"token_embd.weight", {10, 8}},
                                           {"output_norm.weight", {8}},
                                           {"blk.0.attn_norm.weight", {8}},
                                           {"blk.0.ffn_norm.weight", {8}},
                                           {"blk.0.attn_q.weight", {12, 8}},
                                           {"blk.0.attn_k.weight", {6, 8}},
                                           {"blk.0.attn_v.weight", {6, 8}},
                                           {"blk.0.attn_q_norm.weight", {6}},
                                           {"blk.0.attn_k_norm.weight", {6}},
                                           {"blk.0.attn_output.weight", {8, 12}},
                                           {"blk.0.ffn_gate.weight", {16, 8}},
                                           {"blk.0.ffn_up.weight", {16, 8}},
                                           {"blk.0.ffn_down.weight", {8, 16}}});
  header.metadata.SetU32("qwen3.attention.head_count_kv", 1);
  header.metadata.SetU32("qwen3.attention.key_length", 6);
  header.metadata.SetU32("qwen3.attention.value_length", 6);
  header.metadata.SetF32("qwen3.attention.layer_norm_rms_epsilon", 1e-6f);
  header.metadata.SetF32("qwen3.rope.freq_base", 1e6f);
  return header;
}

TEST(DecodersFromGgufTest, ReadsQwen3WithItsHeads) {
  GgufHeader header = Qwen3Header();
  const auto config = ConfigFromGguf(header);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Qwen3ForCausalLM");
  EXPECT_TRUE(config->qk_norm);
  EXPECT_FALSE(config->attention_bias);
  EXPECT_EQ(config->head_dim, 6);
  std::erase_if(header.tensors, [](const auto& t) { return t.name == "blk.0.attn_k_norm.weight"; });
  EXPECT_THAT(ConfigFromGguf(header).status().message(), HasSubstr("blk.0.attn_k_norm.weight"));
}

// One layer of 2 heads of 8 dimensions, of which 6 are rotated.
GgufHeader Phi3Header() {
  GgufHeader header = MadeHeader("phi3", {{"token_embd.weight", {10, 16}},
                                          {"rope_factors_long.weight", {3}},
                                          {"rope_factors_short.weight", {3}},
                                          {"output_norm.weight", {16}},
                                          {"blk.0.attn_norm.weight", {16}},
                                          {"blk.0.ffn_norm.weight", {16}},
                                          {"blk.0.attn_qkv.weight", {32, 16}},
                                          {"blk.0.attn_output.weight", {16, 16}},
                                          {"blk.0.ffn_up.weight", {48, 16}},
                                          {"blk.0.ffn_down.weight", {16, 24}}});
  GgufMetadata& m = header.metadata;
  m.SetU32("phi3.embedding_length", 16);
  m.SetU32("phi3.feed_forward_length", 24);
  m.SetU32("phi3.attention.head_count_kv", 1);
  m.SetF32("phi3.attention.layer_norm_rms_epsilon", 1e-5f);
  m.SetU32("phi3.rope.dimension_count", 6);
  m.SetU32("phi3.rope.scaling.original_context_length", 32);
  m.SetF32("phi3.rope.scaling.attn_factor", 1.25f);
  m.SetU32("phi3.attention.sliding_window", 0);
  return header;
}

TEST(DecodersFromGgufTest, ReadsPhi3WithItsFactors) {
  const auto config = ConfigFromGguf(Phi3Header());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Phi3ForCausalLM");
  EXPECT_TRUE(config->fused_projections);
  EXPECT_EQ(config->intermediate_size, 24);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->rotary_dims(), 6);
  EXPECT_EQ(config->sliding_window, 0);
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLongRope);
  EXPECT_EQ(config->rope_scaling.original_max_positions, 32);
  EXPECT_EQ(config->rope_scaling.attention_factor, 1.25);
}

TEST(DecodersFromGgufTest, NamesWhatIsWrongWithPhi3) {
  const auto refused = [](const std::function<void(GgufHeader&)>& spoil, const char* named) {
    GgufHeader header = Phi3Header();
    spoil(header);
    const absl::Status status = ConfigFromGguf(header).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr(named));
  };
  const auto without = [](const char* name) {
    return [name](GgufHeader& h) {
      std::erase_if(h.tensors, [name](const auto& t) { return t.name == name; });
    };
  };
  refused(without("rope_factors_short.weight"), "rope_factors_short.weight is missing");
  refused(without("blk.0.attn_qkv.weight"), "blk.0.attn_qkv.weight is missing, expected [32, 16]");
  refused([](GgufHeader& h) { h.metadata.Erase("phi3.rope.scaling.original_context_length"); },
          "phi3.rope.scaling.original_context_length");
  refused([](GgufHeader& h) { h.metadata.SetU32("phi3.rope.dimension_count", 5); },
          "phi3.rope.dimension_count");
  refused([](GgufHeader& h) { h.metadata.SetU32("phi3.rope.dimension_count", 10); },
          "phi3.rope.dimension_count");
  refused([](GgufHeader& h) { h.metadata.SetU32("phi3.rope.dimension_count", 4); },
          "rope_factors_long.weight");
  refused([](GgufHeader& h) { h.metadata.SetF32("phi3.rope.scaling.attn_factor", 0); },
          "phi3.rope.scaling.attn_factor");
  refused(
      [](GgufHeader& h) {
        for (GgufTensorInfo& tensor : h.tensors) {
          if (tensor.name == "blk.0.ffn_up.weight") tensor.shape = {24, 16};
        }
      },
      "blk.0.ffn_up.weight");
}

}  // namespace
}  // namespace quantd

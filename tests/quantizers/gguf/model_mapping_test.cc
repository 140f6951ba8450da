#include "quantizers/codecs/gguf/model_mapping.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/tokenizer_keys.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

ModelConfig Model(const std::string& model_type) {
  ModelConfig config;
  config.model_type = model_type;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 6;
  config.hidden_size = 24;
  return config;
}

TEST(TensorNamesTest, BothDirections) {
  struct Case {
    const char *model_type, *hf, *gguf;
  };
  const Case cases[] = {
      {"llama", "model.embed_tokens.weight", "token_embd.weight"},
      {"mistral", "model.layers.2.self_attn.q_proj.weight", "blk.2.attn_q.weight"},
      {"llama", "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"},
      {"llama", "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight"},
      {"qwen2", "model.layers.1.self_attn.k_proj.bias", "blk.1.attn_k.bias"},
      {"qwen2", "lm_head.weight", "output.weight"},
      {"qwen3", "model.layers.2.self_attn.k_norm.weight", "blk.2.attn_k_norm.weight"},
      {"qwen3", "model.layers.2.mlp.up_proj.weight", "blk.2.ffn_up.weight"},
      {"phi3", "model.layers.0.self_attn.qkv_proj.weight", "blk.0.attn_qkv.weight"},
      {"phi3", "model.layers.0.mlp.gate_up_proj.weight", "blk.0.ffn_up.weight"},
      {"phi3", "model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"},
      {"bert", "embeddings.LayerNorm.bias", "token_embd_norm.bias"},
      {"bert", "encoder.layer.2.attention.output.LayerNorm.weight",
       "blk.2.attn_output_norm.weight"},
      {"bert", "encoder.layer.0.output.dense.bias", "blk.0.ffn_down.bias"},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(GgufNameFor(Model(c.model_type), c.hf), c.gguf);
    EXPECT_EQ(HfNameFor(Model(c.model_type), c.gguf), c.hf);
  }
  EXPECT_EQ(GgufNameFor(Model("bert"), "bert.embeddings.word_embeddings.weight"),
            "token_embd.weight");
}

TEST(TensorNamesTest, NothingForOtherNames) {
  for (const char* name :
       {"", "weight", "blk.3.attn_q.weight", "blk.-1.attn_q.weight", "blk.01.attn_q.weight",
        "blk.1.attn_q", "blk.1.attn_q.weight.weight", "blk.1.attn_r.weight", "rope_freqs.weight",
        "blk.99999999999999999999.attn_q.weight", "blk..attn_q.weight"}) {
    EXPECT_EQ(HfNameFor(Model("llama"), name), std::nullopt) << name;
  }
  EXPECT_EQ(GgufNameFor(Model("bert"), "pooler.dense.weight"), std::nullopt);
  EXPECT_EQ(HfNameFor(Model("phi3"), "blk.0.ffn_gate.weight"), std::nullopt);
  EXPECT_EQ(HfNameFor(Model("qwen2"), "blk.0.attn_q_norm.weight"), std::nullopt);
  EXPECT_EQ(GgufNameFor(Model("gpt2"), "lm_head.weight"), std::nullopt);
}

TEST(TensorNamesTest, TheConverterDropsBuffersAndThePooler) {
  EXPECT_TRUE(IsLeftOutOfGguf(Model("bert"), "embeddings.position_ids"));
  EXPECT_TRUE(IsLeftOutOfGguf(Model("bert"), "bert.pooler.dense.bias"));
  EXPECT_TRUE(IsLeftOutOfGguf(Model("llama"), "model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_TRUE(IsLeftOutOfGguf(Model("llama"), "model.layers.0.self_attn.k_scale"));
  EXPECT_FALSE(IsLeftOutOfGguf(Model("llama"), "model.layers.0.self_attn.k_proj.weight_scale"));
  EXPECT_FALSE(IsLeftOutOfGguf(Model("llama"), "pooler.dense.weight"));
  EXPECT_FALSE(IsLeftOutOfGguf(Model("bert"), "classifier.weight"));
}

TEST(RowOrderTest, InterleavesTheHalvesOfEachHead) {
  const ModelConfig config = Model("llama");
  const std::vector<int64_t> order =
      RowOrderToGguf(config, "model.layers.0.self_attn.k_proj.weight");
  EXPECT_THAT(order, ::testing::ElementsAre(0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11));
  const std::vector<int64_t> back = RowOrderToHf(config, "model.layers.0.self_attn.k_proj.bias");
  ASSERT_EQ(back.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[back[i]], static_cast<int64_t>(i));
  EXPECT_EQ(RowOrderToGguf(config, "model.layers.0.self_attn.q_proj.weight").size(), 24u);
}

TEST(RowOrderTest, OnlyLlamasQueriesAndKeys) {
  EXPECT_TRUE(RowOrderToGguf(Model("llama"), "model.layers.0.self_attn.v_proj.weight").empty());
  EXPECT_TRUE(RowOrderToGguf(Model("qwen2"), "model.layers.0.self_attn.q_proj.weight").empty());
  EXPECT_TRUE(RowOrderToGguf(Model("bert"), "encoder.layer.0.attention.self.query.weight").empty());
}

TEST(PermuteRowsTest, MovesPlainAndQuantizedRowsAlike) {
  const auto golden = ReadGoldenTensors("gguf/linear-q4_k/quantized.safetensors");
  const Weight weight = *DecodeGgufBlocks(GgmlType::kQ4_K, {8, 1024}, golden.at("blocks").bytes);
  const std::vector<int64_t> order = {3, 1, 0, 7, 2, 4, 6, 5};
  const auto permuted = PermuteRows(weight, order);
  ASSERT_TRUE(permuted.ok()) << permuted.status();
  const std::vector<float> before = Dequantize(std::get<QuantizedTensor>(weight));
  const std::vector<float> after = Dequantize(std::get<QuantizedTensor>(*permuted));
  const auto plain = PermuteRows(Weight(TensorOf<float>(DType::kF32, {8, 1024}, before)), order);
  EXPECT_EQ(FloatsOf(std::get<Tensor>(*plain)), after);
  for (size_t row = 0; row < 8; ++row) {
    EXPECT_EQ(after[row * 1024 + 17], before[order[row] * 1024 + 17]);
  }
}

TEST(PermuteRowsTest, RefusesAnotherNumberOfRows) {
  const Weight weight = MakeTensor(DType::kF32, {5, 3});
  EXPECT_EQ(PermuteRows(weight, {0, 1, 2}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(PermuteRows(weight, {}).ok());
}

TEST(VocabularyTest, ReadsTheGoldenFile) {
  const auto bytes = ReadGoldenFile("gguf/model-q4_k_m/model.gguf");
  const auto header = ParseGgufHeader(bytes, bytes.size());
  ASSERT_TRUE(header.ok());
  const auto vocabulary = VocabularyFromGguf(header->metadata);
  ASSERT_TRUE(vocabulary.ok()) << vocabulary.status();
  EXPECT_EQ(vocabulary->model, "llama");
  EXPECT_EQ(vocabulary->tokens.size(), 512u);
  EXPECT_EQ(vocabulary->scores.size(), 512u);
  EXPECT_EQ(vocabulary->token_types[3], 6);
  EXPECT_EQ(vocabulary->pad_id, 0);
  std::map<std::string, std::string> files;
  ASSERT_TRUE(gguf::ReadTokenizerKeys(header->metadata, files).ok());
  EXPECT_THAT(files, ::testing::SizeIs(3));
  // And back: the same tokens under the same ids.
  ModelConfig config = Model("llama");
  config.vocab_size = 512;
  GgufMetadata again;
  ASSERT_TRUE(gguf::WriteTokenizerKeys(config, files, again).ok());
  const auto round = VocabularyFromGguf(again);
  ASSERT_TRUE(round.ok()) << round.status();
  EXPECT_EQ(round->tokens, vocabulary->tokens);
  EXPECT_EQ(round->token_types, vocabulary->token_types);
}

TEST(VocabularyTest, RefusesWrongKeys) {
  GgufMetadata metadata;
  EXPECT_EQ(VocabularyFromGguf(metadata).status().code(), absl::StatusCode::kInvalidArgument);
  metadata.SetString("tokenizer.ggml.model", "../t5");
  EXPECT_EQ(VocabularyFromGguf(metadata).status().code(), absl::StatusCode::kUnimplemented);
  metadata.SetString("tokenizer.ggml.model", "gpt2");
  EXPECT_TRUE(VocabularyFromGguf(metadata).ok());
  metadata.SetU32("tokenizer.ggml.tokens", 7);
  EXPECT_EQ(VocabularyFromGguf(metadata).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd

// Broken metadata of every sort: refused by name, and before anything is sized by it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "formats/huggingface/sentence_transformers.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

GgufHeader TinyHeader() {
  const auto bytes = ReadGoldenFile("gguf/model-q4_k_m/model.gguf");
  return *ParseGgufHeader(bytes, bytes.size());
}

// A small file of an architecture without golden files.
GgufHeader MadeHeader(const std::string& architecture, std::vector<GgufTensorInfo> tensors) {
  GgufHeader header;
  GgufMetadata& m = header.metadata;
  m.SetString("general.architecture", architecture);
  m.SetU32(architecture + ".block_count", 1);
  m.SetU32(architecture + ".context_length", 64);
  m.SetU32(architecture + ".embedding_length", 8);
  m.SetU32(architecture + ".feed_forward_length", 16);
  m.SetU32(architecture + ".attention.head_count", 2);
  header.tensors = std::move(tensors);
  return header;
}

struct BadCase {
  const char* id;
  std::function<void(GgufHeader&)> spoil;
  const char* named;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

std::function<void(GgufHeader&)> U32(const char* key, uint32_t value) {
  return [=](GgufHeader& h) { h.metadata.SetU32(key, value); };
}
std::function<void(GgufHeader&)> F32(const char* key, float value) {
  return [=](GgufHeader& h) { h.metadata.SetF32(key, value); };
}
std::function<void(GgufHeader&)> Text(const char* key, const char* value) {
  return [=](GgufHeader& h) { h.metadata.SetString(key, value); };
}
std::function<void(GgufHeader&)> Without(const char* key) {
  return [=](GgufHeader& h) { h.metadata.Erase(key); };
}
std::function<void(GgufHeader&)> OnTensor(const char* name,
                                          std::function<void(GgufTensorInfo&)> change) {
  return [=](GgufHeader& h) {
    for (GgufTensorInfo& tensor : h.tensors) {
      if (tensor.name == name) change(tensor);
    }
  };
}

const char* const kBlocks = "llama.block_count";
const char* const kHeads = "llama.attention.head_count";
const char* const kKvHeads = "llama.attention.head_count_kv";
const char* const kEps = "llama.attention.layer_norm_rms_epsilon";
const char* const kTheta = "llama.rope.freq_base";
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<BadCase> BadCases() {
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  return {
      {"blocks_0", U32(kBlocks, 0), kBlocks},
      {"blocks_fewer", U32(kBlocks, 1), "blk.1."},
      {"blocks_more", U32(kBlocks, 3), "blk.2."},
      {"blocks_513", U32(kBlocks, 513), "blk.2."},
      {"blocks_huge", U32(kBlocks, 0xffffffff), kBlocks},
      {"embedding_0", U32("llama.embedding_length", 0), "embedding_length"},
      {"embedding_other", U32("llama.embedding_length", 512), "token_embd.weight"},
      {"ffn_0", U32("llama.feed_forward_length", 0), "feed_forward_length"},
      {"ffn_huge", U32("llama.feed_forward_length", 0xffffffff), "feed_forward_length"},
      {"heads_0", U32(kHeads, 0), kHeads},
      {"heads_odd", U32(kHeads, 3), "head_count"},
      {"heads_huge", U32(kHeads, 0xffffffff), kHeads},
      {"kv_heads_0", U32(kKvHeads, 0), kKvHeads},
      {"kv_heads_many", U32(kKvHeads, 5), kKvHeads},
      {"kv_heads_odd", U32(kKvHeads, 3), kKvHeads},
      {"kv_heads_other", U32(kKvHeads, 1), "attn_k.weight"},
      {"rope_odd", U32("llama.rope.dimension_count", 63), "rope.dimension_count"},
      {"rope_big", U32("llama.rope.dimension_count", 1u << 31), "rope.dimension_count"},
      {"key_length_odd",
       [](GgufHeader& h) {
         for (const char* key :
              {"attention.key_length", "attention.value_length", "rope.dimension_count"}) {
           h.metadata.SetU32(std::string("llama.") + key, 63);
         }
       },
       "even"},
      {"value_length", U32("llama.attention.value_length", 32), "value_length"},
      {"context_0", U32("llama.context_length", 0), "context_length"},
      {"no_architecture", Without("general.architecture"), "general.architecture"},
      {"unknown_architecture", Text("general.architecture", "grok"), "\"grok\"", kUnimplemented},
      {"architecture_path", Text("general.architecture", "../llama"), "architecture",
       kUnimplemented},
      {"architecture_number", U32("general.architecture", 3), "general.architecture"},
      {"no_blocks", Without(kBlocks), kBlocks},
      {"blocks_text", Text(kBlocks, "2"), kBlocks},
      {"no_eps", Without(kEps), kEps},
      {"eps_0", F32(kEps, 0), kEps},
      {"eps_negative", F32(kEps, -1e-5f), kEps},
      {"eps_nan", F32(kEps, kNan), kEps},
      {"eps_inf", F32(kEps, kInf), kEps},
      {"theta_0", F32(kTheta, 0), kTheta},
      {"theta_nan", F32(kTheta, kNan), kTheta},
      {"theta_inf", F32(kTheta, kInf), kTheta},
      {"theta_text", Text(kTheta, "1e4"), kTheta},
      {"vocab_size", U32("llama.vocab_size", 511), "llama.vocab_size"},
      {"few_tokens",
       [](GgufHeader& h) {
         h.metadata.SetStrings("tokenizer.ggml.tokens", {"a", "b"});
       },
       "tokenizer.ggml.tokens"},
      {"tokens_number", U32("tokenizer.ggml.tokens", 512), "tokenizer.ggml.tokens"},
      {"bos_past_end", U32("tokenizer.ggml.bos_token_id", 512), "bos_token_id"},
      {"eos_past_end", U32("tokenizer.ggml.eos_token_id", 0xffffffff), "eos_token_id"},
      {"split", U32("split.count", 65535), "split.count"},
      {"yarn", Text("llama.rope.scaling.type", "yarn"), "rope.scaling.type", kUnimplemented},
      {"scaling_0",
       [](GgufHeader& h) {
         h.metadata.SetString("llama.rope.scaling.type", "linear");
         h.metadata.SetF32("llama.rope.scaling.factor", 0);
       },
       "rope.scaling.factor"},
      {"no_embedding",
       [](GgufHeader& h) {
         std::erase_if(h.tensors, [](const auto& t) { return t.name == "token_embd.weight"; });
       },
       "token_embd.weight"},
      {"no_matrix",
       [](GgufHeader& h) {
         std::erase_if(h.tensors, [](const auto& t) { return t.name == "blk.1.ffn_up.weight"; });
       },
       "blk.1.ffn_up.weight"},
      {"no_norm",
       [](GgufHeader& h) {
         std::erase_if(h.tensors, [](const auto& t) { return t.name == "output_norm.weight"; });
       },
       "output_norm.weight"},
      {"swapped",
       OnTensor("blk.0.ffn_up.weight",
                [](auto& t) {
                  t.shape = {256, 512};
                }),
       "blk.0.ffn_up.weight"},
      {"no_rows",
       OnTensor("blk.0.attn_v.weight",
                [](auto& t) {
                  t.shape = {0, 256};
                }),
       "blk.0.attn_v.weight"},
      {"one_row_less",
       OnTensor("output.weight",
                [](auto& t) {
                  t.shape = {511, 256};
                }),
       "output.weight"},
      {"rank", OnTensor("token_embd.weight", [](auto& t) { t.shape = {512 * 256}; }),
       "token_embd.weight"},
      {"integers", OnTensor("blk.0.attn_q.weight", [](auto& t) { t.type = GgmlType::kI32; }),
       "blk.0.attn_q.weight"},
      {"quantized_norm", OnTensor("output_norm.weight", [](auto& t) { t.type = GgmlType::kQ8_0; }),
       "output_norm.weight"},
      {"rope_freqs",
       [](GgufHeader& h) {
         h.tensors.push_back({"rope_freqs.weight", GgmlType::kF32, {64}, 0, 256});
       },
       "rope_freqs.weight"},
  };
}

class BadMetadataTest : public ::testing::TestWithParam<BadCase> {};

TEST_P(BadMetadataTest, IsRefusedByName) {
  GgufHeader header = TinyHeader();
  GetParam().spoil(header);
  const auto config = ConfigFromGguf(header);
  ASSERT_FALSE(config.ok());
  EXPECT_EQ(config.status().code(), GetParam().code) << config.status();
  EXPECT_THAT(config.status().message(), HasSubstr(GetParam().named));
}

INSTANTIATE_TEST_SUITE_P(Cases, BadMetadataTest, ::testing::ValuesIn(BadCases()),
                         [](const auto& info) { return std::string(info.param.id); });

TEST(ConfigFromGgufTest, TakesTheLargestContext) {
  GgufHeader header = TinyHeader();
  header.metadata.SetU32("llama.context_length", 0xffffffff);
  EXPECT_EQ(ConfigFromGguf(header)->max_position_embeddings, 0xffffffff);
}

TEST(ConfigFromGgufTest, TellsMistralByName) {
  GgufHeader header = TinyHeader();
  header.metadata.SetString("general.name", "Mistral 7B v0.1");
  EXPECT_EQ(ConfigFromGguf(header)->architecture, "MistralForCausalLM");
}

TEST(ConfigFromGgufTest, AnAbsentOutputIsTied) {
  GgufHeader header = TinyHeader();
  std::erase_if(header.tensors, [](const auto& t) { return t.name == "output.weight"; });
  EXPECT_TRUE(ConfigFromGguf(header)->tie_word_embeddings);
}

TEST(ConfigFromGgufTest, ReadsLinearRopeScaling) {
  GgufHeader header = TinyHeader();
  header.metadata.SetString("llama.rope.scaling.type", "linear");
  header.metadata.SetF32("llama.rope.scaling.factor", 4);
  const auto config = ConfigFromGguf(header);
  EXPECT_EQ(config->rope_scaling.kind, RopeScaling::Kind::kLinear);
  EXPECT_EQ(config->rope_scaling.factor, 4);
}

std::vector<GgufTensorInfo> PlainTensors(std::vector<std::pair<std::string, Shape>> list) {
  std::vector<GgufTensorInfo> tensors;
  for (auto& [name, shape] : list) tensors.push_back({name, GgmlType::kF32, shape, 0, 0});
  return tensors;
}

TEST(ConfigFromGgufTest, ReadsQwen2WithItsBiases) {
  GgufHeader header = MadeHeader("qwen2", PlainTensors({{"token_embd.weight", {10, 8}},
                                                        {"output_norm.weight", {8}},
                                                        {"blk.0.attn_norm.weight", {8}},
                                                        {"blk.0.ffn_norm.weight", {8}},
                                                        {"blk.0.attn_q.weight", {8, 8}},
                                                        {"blk.0.attn_q.bias", {8}},
                                                        {"blk.0.attn_k.weight", {4, 8}},
                                                        {"blk.0.attn_k.bias", {4}},
                                                        {"blk.0.attn_v.weight", {4, 8}},
                                                        {"blk.0.attn_v.bias", {4}},
                                                        {"blk.0.attn_output.weight", {8, 8}},
                                                        {"blk.0.ffn_gate.weight", {16, 8}},
                                                        {"blk.0.ffn_up.weight", {16, 8}},
                                                        {"blk.0.ffn_down.weight", {8, 16}}}));
  header.metadata.SetU32("qwen2.attention.head_count_kv", 1);
  header.metadata.SetF32("qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
  header.metadata.SetF32("qwen2.rope.freq_base", 1e6f);
  const auto config = ConfigFromGguf(header);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->architecture, "Qwen2ForCausalLM");
  EXPECT_TRUE(config->attention_bias);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_EQ(config->head_dim, 4);
  EXPECT_EQ(config->dtype, DType::kF32);
  std::erase_if(header.tensors, [](const auto& t) { return t.name == "blk.0.attn_v.bias"; });
  EXPECT_THAT(ConfigFromGguf(header).status().message(), HasSubstr("blk.0.attn_v.bias"));
}

TEST(ConfigFromGgufTest, ReadsBert) {
  std::vector<std::pair<std::string, Shape>> list = {{"token_embd.weight", {10, 8}},
                                                     {"position_embd.weight", {64, 8}},
                                                     {"token_types.weight", {2, 8}}};
  const auto add = [&](const std::string& module, const Shape& shape) {
    list.push_back({module + ".weight", shape});
    list.push_back({module + ".bias", {shape[0]}});
  };
  add("token_embd_norm", {8});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    add(std::string("blk.0.") + name, {8, 8});
  }
  add("blk.0.ffn_up", {16, 8});
  add("blk.0.ffn_down", {8, 16});
  add("blk.0.attn_output_norm", {8});
  add("blk.0.layer_output_norm", {8});
  GgufHeader header = MadeHeader("bert", PlainTensors(list));
  header.metadata.SetF32("bert.attention.layer_norm_epsilon", 1e-12f);
  header.metadata.SetBool("bert.attention.causal", false);
  header.metadata.SetU32("bert.pooling_type", 2);
  const auto config = ConfigFromGguf(header);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(config->is_encoder());
  EXPECT_EQ(config->type_vocab_size, 2);
  EXPECT_EQ(config->pooling, "cls");
  EXPECT_EQ(config->max_position_embeddings, 64);
  EXPECT_TRUE(config->normalize_embedding);
  // A folder made of it makes sentences in the same way.
  const auto files = SideFilesFromGguf(header.metadata, *config);
  ASSERT_TRUE(files.ok()) << files.status();
  ModelConfig read = *config;
  read.pooling = "mean";
  read.normalize_embedding = false;
  ASSERT_TRUE(ApplySentenceTransformers(*files, &read).ok());
  EXPECT_EQ(read.pooling, "cls");
  EXPECT_TRUE(read.normalize_embedding);
  EXPECT_THAT(files->at("sentence_bert_config.json"), HasSubstr("\"max_seq_length\": 64"));
  header.metadata.SetU32("bert.context_length", 63);
  EXPECT_THAT(ConfigFromGguf(header).status().message(), HasSubstr("position_embd.weight"));
}

}  // namespace
}  // namespace quantd

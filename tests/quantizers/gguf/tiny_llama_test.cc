// Every tensor of files that llama_model_quantize made of tiny-llama, from the bfloat16 checkpoint.
#include <gtest/gtest.h>

#include <sstream>

#include "core/float_types.h"
#include "formats/gguf/gguf.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

ModelConfig TinyLlama() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = 512;
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 64;
  config.max_position_embeddings = 512;
  return config;
}

struct GoldenTensor {
  std::string name;
  std::string type;
  uint64_t hash;
};

std::map<std::string, std::vector<GoldenTensor>> GoldenFiles() {
  const auto bytes = ReadGoldenFile("gguf/tiny-llama-tensors.txt");
  std::istringstream lines(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
  std::map<std::string, std::vector<GoldenTensor>> files;
  for (std::string line; std::getline(lines, line);) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream words(line);
    std::string variant;
    GoldenTensor tensor;
    words >> variant >> tensor.name >> tensor.type >> std::hex >> tensor.hash;
    files[variant].push_back(tensor);
  }
  return files;
}

uint64_t Hash(std::span<const std::byte> bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  size_t i = 0;
  for (; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + i, 8);
    hash = (hash ^ word) * 0x100000001b3u;
  }
  for (; i < bytes.size(); ++i) hash = (hash ^ static_cast<uint8_t>(bytes[i])) * 0x100000001b3u;
  return hash;
}

// The blocks of one parameter as the pipeline makes them.
std::vector<std::byte> BlocksOf(const ModelConfig& config, const std::string& hf_name,
                                const Tensor& source, GgmlType type) {
  auto ordered = PermuteRows(Weight(source), RowOrderToGguf(config, hf_name));
  EXPECT_TRUE(ordered.ok()) << ordered.status();
  const Tensor wide = ConvertTensor(std::get<Tensor>(*ordered), DType::kF32);
  if (type == GgmlType::kF32) return wide.bytes;
  const auto quantized = (*SchemeForGgmlType(type))->Quantize(wide, nullptr);
  EXPECT_TRUE(quantized.ok()) << quantized.status();
  const auto blocks = EncodeGgufBlocks(type, *quantized);
  EXPECT_TRUE(blocks.ok()) << blocks.status();
  return blocks.ok() ? *blocks : std::vector<std::byte>();
}

TEST(TinyLlamaTest, TensorsAreThoseOfLlamaModelQuantize) {
  const ModelConfig config = TinyLlama();
  const auto source = ReadGoldenTensors("tiny-llama/model.safetensors");
  const auto files = GoldenFiles();
  ASSERT_EQ(files.size(), 6u);
  for (const auto& [file_type, tensors] : files) {
    const auto policy = GgufTypePolicy::ForFileType(file_type, /*pure=*/false);
    ASSERT_TRUE(policy.ok()) << policy.status();
    EXPECT_EQ(tensors.size(), source.size());
    for (const GoldenTensor& golden : tensors) {
      SCOPED_TRACE(file_type + " " + golden.name);
      const std::optional<std::string> hf_name = HfNameFor(config, golden.name);
      ASSERT_TRUE(hf_name.has_value());
      EXPECT_EQ(GgufNameFor(config, *hf_name), golden.name);
      const Tensor& tensor = source.at(*hf_name);
      const GgmlType type = policy->TypeFor(config, golden.name, tensor.shape, false);
      EXPECT_EQ(FindGgmlType(static_cast<uint32_t>(type))->name, golden.type);
      EXPECT_EQ(Hash(BlocksOf(config, *hf_name, tensor, type)), golden.hash);
    }
  }
}

TEST(TinyLlamaTest, ConfigOfTheGoldenFile) {
  const auto bytes = ReadGoldenFile("gguf/model-q4_k_m/model.gguf");
  const auto header = ParseGgufHeader(bytes, bytes.size());
  ASSERT_TRUE(header.ok()) << header.status();
  const auto config = ConfigFromGguf(*header);
  ASSERT_TRUE(config.ok()) << config.status();
  const ModelConfig expected = TinyLlama();
  EXPECT_EQ(config->architecture, expected.architecture);
  EXPECT_EQ(config->vocab_size, expected.vocab_size);
  EXPECT_EQ(config->intermediate_size, expected.intermediate_size);
  EXPECT_EQ(config->num_key_value_heads, expected.num_key_value_heads);
  EXPECT_EQ(config->head_dim, expected.head_dim);
  EXPECT_EQ(config->max_position_embeddings, 512);
  EXPECT_EQ(config->norm_eps, 1e-5);
  EXPECT_EQ(config->rope_theta, 10000);
  EXPECT_FALSE(config->tie_word_embeddings);
  EXPECT_EQ(config->bos_token_id, 1);
  EXPECT_EQ(config->eos_token_ids, std::vector<int64_t>{2});
  EXPECT_EQ(config->pad_token_id, 0);
  EXPECT_EQ(config->dtype, DType::kBF16);
}

// The same keys, types and values in the same order, tokenizer apart.
TEST(TinyLlamaTest, MetadataInTheOrderOfTheConverter) {
  const auto bytes = ReadGoldenFile("gguf/model-q4_k_m/model.gguf");
  const auto header = ParseGgufHeader(bytes, bytes.size());
  ModelConfig config = *ConfigFromGguf(*header);
  config.config_json = R"({"head_dim": 64})";
  const auto metadata = MetadataForModel(config, {}, "models/src-tiny-llama", 15);
  ASSERT_TRUE(metadata.ok()) << metadata.status();
  std::vector<std::string> expected, found;
  for (const auto& [key, value] : header->metadata.entries()) {
    if (key.starts_with("tokenizer.")) continue;
    expected.push_back(key);
    const GgufValue* mine = metadata->Find(key);
    ASSERT_NE(mine, nullptr) << key;
    EXPECT_EQ(mine->type, value.type) << key;
    if (const auto* text = std::get_if<std::string>(&value.value)) {
      EXPECT_EQ(std::get<std::string>(mine->value), *text) << key;
    } else if (const auto* integer = std::get_if<int64_t>(&value.value)) {
      EXPECT_EQ(std::get<int64_t>(mine->value), *integer) << key;
    } else {
      EXPECT_EQ(std::get<double>(mine->value), std::get<double>(value.value)) << key;
    }
  }
  for (const auto& [key, value] : metadata->entries()) {
    if (!key.starts_with("tokenizer.")) found.push_back(key);
  }
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace quantd

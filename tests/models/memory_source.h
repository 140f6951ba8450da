// A checkpoint in memory: a ModelSource made of tensors that a test writes or draws at random.
#ifndef QUANTD_TESTS_MODELS_MEMORY_SOURCE_H_
#define QUANTD_TESTS_MODELS_MEMORY_SOURCE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quantizers/model_source.h"

namespace quantd {

class MemorySource : public ModelSource {
 public:
  explicit MemorySource(ModelConfig config) : config_(std::move(config)) {}

  void Set(const std::string& name, Weight weight);
  void SetFloats(const std::string& name, Shape shape, const std::vector<float>& values);
  void Erase(const std::string& name);
  void SetSideFile(const std::string& name, std::string content) {
    files_[name] = std::move(content);
  }
  ModelConfig& mutable_config() { return config_; }
  // The values of a parameter, dequantized.
  std::vector<float> Floats(const std::string& name) const;

  const ModelConfig& config() const override { return config_; }
  const std::vector<SourceParameter>& parameters() const override { return parameters_; }
  bool Has(absl::string_view name) const override;
  absl::StatusOr<Weight> Read(absl::string_view name) const override;
  std::string quantization() const override { return "none"; }
  absl::StatusOr<SideFiles> side_files() const override { return files_; }
  uint64_t stored_bytes() const override;

 private:
  ModelConfig config_;
  std::vector<SourceParameter> parameters_;
  std::map<std::string, Weight, std::less<>> weights_;
  SideFiles files_;
};

// A small causal model: 3 layers, GQA of 4 heads on 2, head_dim 16, vocabulary 97.
ModelConfig TinyDecoderConfig();
ModelConfig TinyPhi3Config();   // the same with fused projections
ModelConfig TinyQwen3Config();  // and with norms of 72 dimensions of q and 36 of k
// Random parameters for `config` (F32), deterministic in `seed`, the same whether projections are
// fused or not. Qwen2 biases if attention_bias.
std::unique_ptr<MemorySource> RandomDecoder(const ModelConfig& config, uint32_t seed);
// Stacks the weights of q, k and v, and of gate and up, as Phi3 has them.
void FuseProjections(MemorySource& source);

// A small encoder: 2 layers of 4 heads, hidden 32, vocabulary 53, 64 positions.
ModelConfig TinyEncoderConfig();
std::unique_ptr<MemorySource> RandomEncoder(const ModelConfig& config, uint32_t seed);

// A tokenizer.json whose tokens are the words "t0", "t1", ... separated by white space.
std::string WordTokenizerJson(int words);

// tests/data/golden/tiny-llama: written by transformers, with its float32 logits.
struct GoldenLlama {
  std::unique_ptr<MemorySource> source;
  std::vector<std::vector<int32_t>> input_ids;
  std::vector<float> logits;  // [sequences, tokens, vocab]
};
GoldenLlama LoadGoldenLlama();

}  // namespace quantd

#endif  // QUANTD_TESTS_MODELS_MEMORY_SOURCE_H_

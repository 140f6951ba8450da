#include "memory_source.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "formats/safetensors/safetensors.h"
#include "gtest/gtest.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}
  std::vector<float> Normal(int64_t count, float deviation, float mean = 0) {
    // Box-Muller by hand: std::normal_distribution differs between libraries.
    std::vector<float> values(count);
    for (float& value : values) {
      const double u = (engine_() + 1.0) / 4294967297.0, v = engine_() / 4294967296.0;
      value = mean + deviation * static_cast<float>(std::sqrt(-2 * std::log(u)) *
                                                    std::cos(2 * 3.141592653589793 * v));
    }
    return values;
  }

 private:
  std::mt19937 engine_;
};

void AddMatrix(MemorySource& source, Random& random, const std::string& module, int64_t rows,
               int64_t cols, bool bias) {
  const float deviation = 1.2f / std::sqrt(static_cast<float>(cols));
  source.SetFloats(module + ".weight", {rows, cols}, random.Normal(rows * cols, deviation));
  if (bias) source.SetFloats(module + ".bias", {rows}, random.Normal(rows, 0.3f));
}

std::unique_ptr<SafetensorsReader> OpenGolden(const std::string& name) {
  std::ifstream file(TestData("golden/tiny-llama/" + name), std::ios::binary);
  const std::string content((std::istreambuf_iterator<char>(file)), {});
  const auto* begin = reinterpret_cast<const std::byte*>(content.data());
  auto reader = SafetensorsReader::FromBytes({begin, begin + content.size()});
  EXPECT_TRUE(reader.ok()) << reader.status();
  return std::move(reader).value();
}

}  // namespace

void MemorySource::Set(const std::string& name, Weight weight) {
  Erase(name);
  SourceParameter parameter;
  parameter.name = name;
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) {
    parameter.shape = {quantized->rows, quantized->cols};
    parameter.is_quantized = true;
    parameter.stored_as = "test";
    parameter.stored_bytes = quantized->codes.size();
  } else {
    const Tensor& tensor = std::get<Tensor>(weight);
    parameter.shape = tensor.shape;
    parameter.stored_as = std::string(InfoOf(tensor.dtype).safetensors_name);
    parameter.stored_bytes = tensor.bytes.size();
  }
  parameters_.push_back(parameter);
  weights_.insert_or_assign(name, std::move(weight));
}

void MemorySource::SetFloats(const std::string& name, Shape shape,
                             const std::vector<float>& values) {
  Set(name, TensorOf<float>(DType::kF32, std::move(shape), values));
}

void MemorySource::Erase(const std::string& name) {
  weights_.erase(name);
  std::erase_if(parameters_, [&](const SourceParameter& p) { return p.name == name; });
}

std::vector<float> MemorySource::Floats(const std::string& name) const {
  const Weight& weight = weights_.find(name)->second;
  if (const auto* quantized = std::get_if<QuantizedTensor>(&weight)) return Dequantize(*quantized);
  const TensorView view = std::get<Tensor>(weight).view();
  std::vector<float> values(view.elements());
  LoadFloats(view, 0, view.elements(), values.data());
  return values;
}

bool MemorySource::Has(absl::string_view name) const {
  return weights_.count(std::string(name)) > 0;
}

absl::StatusOr<Weight> MemorySource::Read(absl::string_view name) const {
  const auto it = weights_.find(std::string(name));
  if (it == weights_.end()) return absl::NotFoundError(absl::StrCat("no tensor ", name));
  return it->second;
}

uint64_t MemorySource::stored_bytes() const {
  uint64_t bytes = 0;
  for (const SourceParameter& parameter : parameters_) bytes += parameter.stored_bytes;
  return bytes;
}

ModelConfig TinyDecoderConfig() {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.vocab_size = 97;
  config.hidden_size = 48;
  config.intermediate_size = 80;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 256;
  config.eos_token_ids = {2};
  return config;
}

std::unique_ptr<MemorySource> RandomDecoder(const ModelConfig& config, uint32_t seed) {
  auto source = std::make_unique<MemorySource>(config);
  Random random(seed);
  const int64_t hidden = config.hidden_size, mlp = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim;
  const int64_t kv = config.num_key_value_heads * config.head_dim;
  source->SetFloats("model.embed_tokens.weight", {config.vocab_size, hidden},
                    random.Normal(config.vocab_size * hidden, 1));
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    source->SetFloats(layer + "input_layernorm.weight", {hidden}, random.Normal(hidden, 0.2f, 1));
    AddMatrix(*source, random, layer + "self_attn.q_proj", q, hidden, config.attention_bias);
    AddMatrix(*source, random, layer + "self_attn.k_proj", kv, hidden, config.attention_bias);
    AddMatrix(*source, random, layer + "self_attn.v_proj", kv, hidden, config.attention_bias);
    for (const char* norm : {"q_norm", "k_norm"}) {
      if (!config.qk_norm) break;
      source->SetFloats(layer + "self_attn." + norm + ".weight", {config.head_dim},
                        random.Normal(config.head_dim, 0.2f, 1));
    }
    AddMatrix(*source, random, layer + "self_attn.o_proj", hidden, q, false);
    source->SetFloats(layer + "post_attention_layernorm.weight", {hidden},
                      random.Normal(hidden, 0.2f, 1));
    AddMatrix(*source, random, layer + "mlp.gate_proj", mlp, hidden, false);
    AddMatrix(*source, random, layer + "mlp.up_proj", mlp, hidden, false);
    AddMatrix(*source, random, layer + "mlp.down_proj", hidden, mlp, false);
  }
  source->SetFloats("model.norm.weight", {hidden}, random.Normal(hidden, 0.2f, 1));
  if (!config.tie_word_embeddings) {
    AddMatrix(*source, random, "lm_head", config.vocab_size, hidden, false);
  }
  if (config.fused_projections) FuseProjections(*source);
  return source;
}

void FuseProjections(MemorySource& source) {
  const auto stack = [&source](const std::string& to, const std::vector<std::string>& parts) {
    std::vector<float> rows;
    for (const std::string& part : parts) {
      const std::vector<float> values = source.Floats(part + ".weight");
      rows.insert(rows.end(), values.begin(), values.end());
      source.Erase(part + ".weight");
    }
    const int64_t hidden = source.config().hidden_size;
    source.SetFloats(to + ".weight", {static_cast<int64_t>(rows.size()) / hidden, hidden}, rows);
  };
  for (int64_t i = 0; i < source.config().num_hidden_layers; ++i) {
    const std::string attention = absl::StrCat("model.layers.", i, ".self_attn.");
    const std::string mlp = absl::StrCat("model.layers.", i, ".mlp.");
    stack(attention + "qkv_proj",
          {attention + "q_proj", attention + "k_proj", attention + "v_proj"});
    stack(mlp + "gate_up_proj", {mlp + "gate_proj", mlp + "up_proj"});
  }
  source.mutable_config().fused_projections = true;
}

ModelConfig TinyPhi3Config() {
  ModelConfig config = TinyDecoderConfig();
  config.architecture = "Phi3ForCausalLM";
  config.model_type = "phi3";
  config.fused_projections = true;
  return config;
}

ModelConfig TinyQwen3Config() {
  ModelConfig config = TinyDecoderConfig();
  config.architecture = "Qwen3ForCausalLM";
  config.model_type = "qwen3";
  config.qk_norm = true;
  config.head_dim = 18;  // not hidden_size over heads
  return config;
}

ModelConfig TinyEncoderConfig() {
  ModelConfig config;
  config.architecture = "BertModel";
  config.model_type = "bert";
  config.vocab_size = 53;
  config.hidden_size = 32;
  config.intermediate_size = 64;
  config.num_hidden_layers = 2;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 4;
  config.head_dim = 8;
  config.max_position_embeddings = 64;
  config.type_vocab_size = 2;
  config.hidden_act = "gelu";
  config.norm_eps = 1e-12;
  return config;
}

std::unique_ptr<MemorySource> RandomEncoder(const ModelConfig& config, uint32_t seed) {
  auto source = std::make_unique<MemorySource>(config);
  Random random(seed);
  const int64_t hidden = config.hidden_size;
  const auto norm = [&](const std::string& module) {
    source->SetFloats(module + ".weight", {hidden}, random.Normal(hidden, 0.2f, 1));
    source->SetFloats(module + ".bias", {hidden}, random.Normal(hidden, 0.2f));
  };
  const auto table = [&](const std::string& name, int64_t rows) {
    source->SetFloats("embeddings." + name + ".weight", {rows, hidden},
                      random.Normal(rows * hidden, 1));
  };
  table("word_embeddings", config.vocab_size);
  table("position_embeddings", config.max_position_embeddings);
  table("token_type_embeddings", config.type_vocab_size);
  norm("embeddings.LayerNorm");
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("encoder.layer.", i, ".");
    for (const char* name : {"query", "key", "value"}) {
      AddMatrix(*source, random, layer + "attention.self." + name, hidden, hidden, true);
    }
    AddMatrix(*source, random, layer + "attention.output.dense", hidden, hidden, true);
    norm(layer + "attention.output.LayerNorm");
    AddMatrix(*source, random, layer + "intermediate.dense", config.intermediate_size, hidden,
              true);
    AddMatrix(*source, random, layer + "output.dense", hidden, config.intermediate_size, true);
    norm(layer + "output.LayerNorm");
  }
  return source;
}

std::string WordTokenizerJson(int words) {
  std::string json = R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
    "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
    "decoder": null, "model": {"type": "WordLevel", "unk_token": "t0", "vocab": {)";
  for (int i = 0; i < words; ++i) {
    absl::StrAppend(&json, i > 0 ? ", " : "", "\"t", i, "\": ", i);
  }
  return absl::StrCat(json, "}}}");
}

GoldenLlama LoadGoldenLlama() {
  GoldenLlama golden;
  ModelConfig config = TinyDecoderConfig();
  config.vocab_size = 512;
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.num_hidden_layers = 2;
  config.head_dim = 64;
  config.max_position_embeddings = 512;
  golden.source = std::make_unique<MemorySource>(config);
  const auto model = OpenGolden("model.safetensors");
  for (const TensorInfo& info : model->header().tensors) {
    golden.source->Set(info.name, model->Read(info.name).value());
  }
  const auto reference = OpenGolden("reference_logits.safetensors");
  const Tensor ids = reference->Read("input_ids").value();
  for (int64_t row = 0; row < ids.shape[0]; ++row) {
    std::vector<int32_t>& sequence = golden.input_ids.emplace_back();
    for (int64_t i = 0; i < ids.shape[1]; ++i) {
      int64_t id = 0;
      std::memcpy(&id, ids.bytes.data() + (row * ids.shape[1] + i) * 8, 8);
      sequence.push_back(static_cast<int32_t>(id));
    }
  }
  const Tensor logits = reference->Read("logits_fp32").value();
  golden.logits.resize(NumElements(logits.shape));
  LoadFloats(logits.view(), 0, NumElements(logits.shape), golden.logits.data());
  return golden;
}

}  // namespace quantd

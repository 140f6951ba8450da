// What a model computes, as config.json or GGUF metadata say it, checked and typed.
#ifndef QUANTD_FORMATS_MODEL_CONFIG_H_
#define QUANTD_FORMATS_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace quantd {

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3, kLongRope };
  Kind kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  int64_t original_max_positions = 8192;
  // longrope: what divides the frequencies, [rotary_dims/2], in contexts of up to
  // original_max_positions and in longer ones, and what multiplies cosines and sines.
  std::vector<float> short_factors, long_factors;
  double attention_factor = 1;
  std::vector<float> frequency_divisors;  // GGUF rope_freqs.weight, [head_dim/2]; replaces the rest
};

struct ModelConfig {
  // The transformers class, e.g. "LlamaForCausalLM", "Phi3ForCausalLM", "BertModel". GGUF's
  // general.architecture is mapped to it.
  std::string architecture;
  std::string model_type;     // "llama", "mistral", "qwen2", "qwen3", "phi3", "bert"
  DType dtype = DType::kF32;  // of the unquantized parameters

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double norm_eps = 1e-5;  // RMS or layer norm
  std::string hidden_act = "silu";
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // on q, k, v (Qwen2: true)
  bool mlp_bias = false;
  int64_t sliding_window = 0;  // 0: full attention
  // Phi3: the rows of q, k and v are one matrix, those of gate and up another.
  bool fused_projections = false;
  bool qk_norm = false;  // an RMS norm of every head of q and k, before the rotation (Qwen3)

  double rope_theta = 10000;
  int64_t rotary_dim = 0;  // the first dimensions of a head, which positions rotate; 0: all
  RopeScaling rope_scaling;

  // Encoders.
  int64_t type_vocab_size = 0;
  std::string pooling = "mean";  // sentence-transformers 1_Pooling: "mean", "cls", "max"
  bool normalize_embedding = false;

  std::optional<int64_t> bos_token_id;
  std::vector<int64_t> eos_token_ids;
  std::optional<int64_t> pad_token_id;

  // JSON text of config.json's quantization_config; empty when the checkpoint is not quantized.
  std::string quantization_config;
  // Text of the config.json it came from; empty for GGUF. Carried along so that nothing is lost.
  std::string config_json;

  bool is_encoder() const { return model_type == "bert"; }
  int64_t rotary_dims() const { return rotary_dim > 0 ? rotary_dim : head_dim; }
};

// Parses config.json strictly, in the spelling of Transformers 4 (rope_theta, rope_scaling,
// torch_dtype) and 5 (rope_parameters, dtype). Every dimension is an integer in a sane range,
// nothing is allocated by it. INVALID_ARGUMENT names the key, found and expected; UNIMPLEMENTED
// names an unknown architecture, activation or rope type. auto_map is ignored. A context beyond
// 2^20 positions is capped to that.
absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& config_json);

// Adds what generation_config.json says: its end-of-sequence ids (united with the config's), and
// beginning and padding ids where the config has none. INVALID_ARGUMENT for ids past the
// vocabulary.
absl::Status MergeGenerationConfig(const std::string& generation_config_json, ModelConfig* config);

// The rules that hold between the fields, whatever file they come from: dimensions in their ranges,
// heads that divide, finite positive eps and theta, ids inside the vocabulary. INVALID_ARGUMENT
// names the field after config.json's key.
absl::Status CheckModelConfig(const ModelConfig& config);

// config.json text for `config`: its own config_json with all keys it has, if any, else made from
// the fields; quantization_config replaced by `quantization_config` (JSON text; empty removes the
// key) and the dtype by the config's. Keys are sorted as Transformers writes them. UNIMPLEMENTED
// for rope frequencies that no rope type of Transformers gives.
absl::StatusOr<std::string> WriteHfConfig(const ModelConfig& config,
                                          const std::string& quantization_config);

}  // namespace quantd

#endif  // QUANTD_FORMATS_MODEL_CONFIG_H_

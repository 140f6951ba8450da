#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "formats/architectures.h"
#include "formats/huggingface/rope_config.h"
#include "formats/huggingface/strict_json.h"
#include "formats/model_config.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

// The divisor of rotary frequency `i` under rope type llama3 (modeling_rope_utils.py,
// transformers 5.23).
double Llama3Divisor(const ModelConfig& config, const RopeScaling& rope, int64_t i) {
  const double frequency = std::pow(
      config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
  const double wavelength = 2 * std::numbers::pi / frequency;
  const auto original = static_cast<double>(rope.original_max_positions);
  if (wavelength < original / rope.high_freq_factor) return 1;
  if (wavelength > original / rope.low_freq_factor) return rope.factor;
  const double smooth = (original / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return 1 / ((1 - smooth) / rope.factor + smooth);
}

// GGUF stores only the divisors. Llama 3.1 to 3.3 all use 1, 4 and 8192, with factor 8 or 32: those
// are tried, with the factor that the largest divisor shows.
absl::StatusOr<RopeScaling> Llama3FromDivisors(const ModelConfig& config) {
  const auto& divisors = config.rope_scaling.frequency_divisors;
  RopeScaling rope;
  rope.kind = RopeScaling::Kind::kLlama3;
  rope.factor = *std::max_element(divisors.begin(), divisors.end());
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double expected = Llama3Divisor(config, rope, static_cast<int64_t>(i));
    if (!(std::abs(divisors[i] - expected) <= 1e-3 * expected)) {
      return absl::UnimplementedError(absl::StrCat(
          "the model's rope frequencies (divisor ", divisors[i], " at ", i,
          ") are of no rope type that config.json can name: it can only be written as GGUF"));
    }
  }
  return rope;
}

Json LongRopeJson(const ModelConfig& config) {
  const RopeScaling& rope = config.rope_scaling;
  Json json = {{"type", "longrope"},
               {"short_factor", rope.short_factors},
               {"long_factor", rope.long_factors}};
  const double factor = static_cast<double>(config.max_position_embeddings) /
                        static_cast<double>(rope.original_max_positions);
  const double usual = LongRopeAttentionFactor(factor, rope.original_max_positions);
  // GGUF keeps it in float32.
  if (std::abs(rope.attention_factor - usual) > 1e-6 * usual) {
    json["attention_factor"] = rope.attention_factor;
  }
  return json;
}

// The factor that gives rotary_dim when it is multiplied by head_dim and cut to an integer.
double PartialRotaryFactor(const ModelConfig& config) {
  const auto head_dim = static_cast<double>(config.head_dim);
  const double factor = static_cast<double>(config.rotary_dims()) / head_dim;
  const bool cut = static_cast<int64_t>(head_dim * factor) < config.rotary_dims();
  return cut ? std::nextafter(factor, 2.0) : factor;
}

absl::StatusOr<Json> RopeScalingJson(const ModelConfig& config) {
  RopeScaling rope = config.rope_scaling;
  if (!rope.frequency_divisors.empty()) {
    ASSIGN_OR_RETURN(rope, Llama3FromDivisors(config));
  }
  switch (rope.kind) {
    case RopeScaling::Kind::kLinear:
      return Json{{"rope_type", "linear"}, {"factor", rope.factor}};
    case RopeScaling::Kind::kLlama3:
      return Json{{"rope_type", "llama3"},
                  {"factor", rope.factor},
                  {"low_freq_factor", rope.low_freq_factor},
                  {"high_freq_factor", rope.high_freq_factor},
                  {"original_max_position_embeddings", rope.original_max_positions}};
    case RopeScaling::Kind::kLongRope:
      return LongRopeJson(config);
    case RopeScaling::Kind::kNone:
      break;
  }
  return Json(nullptr);
}

absl::StatusOr<Json> MakeJson(const ModelConfig& config) {
  Json json = {{"architectures", {config.architecture}},
               {"model_type", config.model_type},
               {"vocab_size", config.vocab_size},
               {"hidden_size", config.hidden_size},
               {"intermediate_size", config.intermediate_size},
               {"num_hidden_layers", config.num_hidden_layers},
               {"num_attention_heads", config.num_attention_heads},
               {"max_position_embeddings", config.max_position_embeddings},
               {"hidden_act", config.hidden_act},
               {"initializer_range", 0.02},
               {"torch_dtype", std::string(InfoOf(config.dtype).torch_name)},
               {"use_cache", true}};
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.pad_token_id) json["pad_token_id"] = *config.pad_token_id;
  if (config.eos_token_ids.size() == 1) json["eos_token_id"] = config.eos_token_ids[0];
  if (config.eos_token_ids.size() > 1) json["eos_token_id"] = config.eos_token_ids;
  if (config.is_encoder()) {
    json["layer_norm_eps"] = config.norm_eps;
    json["type_vocab_size"] = config.type_vocab_size;
    json["position_embedding_type"] = "absolute";
    return json;
  }
  json["rms_norm_eps"] = config.norm_eps;
  json["num_key_value_heads"] = config.num_key_value_heads;
  json["head_dim"] = config.head_dim;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["rope_theta"] = config.rope_theta;
  ASSIGN_OR_RETURN(json["rope_scaling"], RopeScalingJson(config));
  if (config.model_type == "llama") {
    json["attention_bias"] = config.attention_bias;
    json["mlp_bias"] = config.mlp_bias;
  } else {
    json["sliding_window"] =
        config.sliding_window > 0 ? Json(config.sliding_window) : Json(nullptr);
  }
  if (config.model_type == "qwen3") json["attention_bias"] = config.attention_bias;
  if (config.model_type == "phi3") {
    // An absent id would be one of Phi-3's own vocabulary.
    for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
      if (!json.contains(key)) json[key] = nullptr;
    }
    json["partial_rotary_factor"] = PartialRotaryFactor(config);
    json["original_max_position_embeddings"] =
        config.rope_scaling.kind == RopeScaling::Kind::kLongRope
            ? config.rope_scaling.original_max_positions
            : config.max_position_embeddings;
  }
  if (config.model_type == "qwen2" || config.model_type == "qwen3") {
    json["use_sliding_window"] = config.sliding_window > 0;
    json["max_window_layers"] = config.sliding_window > 0 ? 0 : config.num_hidden_layers;
  }
  return json;
}

// Spells the dtype as the file does, if it names another one now.
void ReplaceDType(const ModelConfig& config, Json& json) {
  const std::string name(InfoOf(config.dtype).torch_name);
  for (const char* key : {"dtype", "torch_dtype"}) {
    if (!json.contains(key) || !json[key].is_string()) continue;
    if (DTypeFromTorch(json[key].get_ref<const std::string&>()) != config.dtype) json[key] = name;
  }
  if (!json.contains("dtype") && !json.contains("torch_dtype")) json["torch_dtype"] = name;
}

}  // namespace

absl::StatusOr<std::string> WriteHfConfig(const ModelConfig& config,
                                          const std::string& quantization_config) {
  Json json;
  if (config.config_json.empty()) {
    ASSIGN_OR_RETURN(json, MakeJson(config));
  } else {
    ASSIGN_OR_RETURN(json, ParseStrictJsonObject(config.config_json, "config.json"));
    ReplaceDType(config, json);
  }
  json.erase("compression_config");
  json.erase("quantization_config");
  if (!quantization_config.empty()) {
    ASSIGN_OR_RETURN(json["quantization_config"],
                     ParseStrictJsonObject(quantization_config, "quantization_config"));
  }
  return json.dump(2, ' ', /*ensure_ascii=*/true) + "\n";
}

}  // namespace quantd

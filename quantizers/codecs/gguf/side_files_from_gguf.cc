// GGUF metadata -> the small files of a Hugging Face checkpoint.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/codecs/gguf/tokenizer_keys.h"

namespace quantd {
namespace {

// The divisor of frequency i that the llama3 scaling makes. Source: transformers
// modeling_rope_utils._compute_llama3_parameters, 5.23.
double Llama3Divisor(const ModelConfig& config, const RopeScaling& scaling, size_t i) {
  const double original = static_cast<double>(scaling.original_max_positions);
  const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
  const double wavelength = 2 * std::numbers::pi * std::pow(config.rope_theta, exponent);
  if (wavelength < original / scaling.high_freq_factor) return 1;
  if (wavelength > original / scaling.low_freq_factor) return scaling.factor;
  const double smooth = (original / wavelength - scaling.low_freq_factor) /
                        (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

// config.json has no list of divisors: finds the llama3 parameters that give them. Published models
// differ in the factor only, which is the largest divisor.
absl::Status NameRopeScaling(ModelConfig& config) {
  RopeScaling& scaling = config.rope_scaling;
  const std::vector<float> divisors = std::move(scaling.frequency_divisors);
  scaling.frequency_divisors.clear();
  if (divisors.empty()) return absl::OkStatus();
  RopeScaling named;
  named.kind = RopeScaling::Kind::kLlama3;
  named.factor = *std::max_element(divisors.begin(), divisors.end());
  if (named.factor == 1) return absl::OkStatus();
  bool same = divisors.size() == static_cast<size_t>(config.head_dim / 2);
  for (size_t i = 0; i < divisors.size() && same; ++i) {
    const double expected = Llama3Divisor(config, named, i);
    same = std::fabs(divisors[i] - expected) <= 1e-4 * expected;
  }
  if (!same) {
    return absl::UnimplementedError(
        "GGUF tensor rope_freqs.weight: these divisors are not those of Llama 3's scaling "
        "(low_freq_factor 1, high_freq_factor 4, original length 8192), and config.json has no "
        "other way to say them");
  }
  scaling = named;
  return absl::OkStatus();
}

std::string GenerationConfig(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["_from_model_config"] = true;
  if (config.bos_token_id) json["bos_token_id"] = *config.bos_token_id;
  if (config.eos_token_ids.size() == 1) {
    json["eos_token_id"] = config.eos_token_ids[0];
  } else if (!config.eos_token_ids.empty()) {
    json["eos_token_id"] = config.eos_token_ids;
  }
  if (config.pad_token_id) json["pad_token_id"] = *config.pad_token_id;
  return json.dump(2) + "\n";
}

// How sentence-transformers makes one vector of the hidden states.
void AddSentenceTransformersFiles(const ModelConfig& config,
                                  std::map<std::string, std::string>& files) {
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  const auto add = [&modules](absl::string_view path, absl::string_view type) {
    const size_t index = modules.size();
    nlohmann::ordered_json module;
    module["idx"] = index;
    module["name"] = absl::StrCat(index);
    module["path"] = std::string(path);
    module["type"] = absl::StrCat("sentence_transformers.models.", type);
    modules.push_back(std::move(module));
  };
  add("", "Transformer");
  add("1_Pooling", "Pooling");
  if (config.normalize_embedding) add("2_Normalize", "Normalize");
  files["modules.json"] = modules.dump(2) + "\n";

  nlohmann::ordered_json pooling;
  pooling["word_embedding_dimension"] = config.hidden_size;
  pooling["pooling_mode_cls_token"] = config.pooling == "cls";
  pooling["pooling_mode_mean_tokens"] = config.pooling == "mean";
  pooling["pooling_mode_max_tokens"] = false;
  pooling["pooling_mode_mean_sqrt_len_tokens"] = false;
  files["1_Pooling/config.json"] = pooling.dump(2) + "\n";

  nlohmann::ordered_json limits;
  limits["max_seq_length"] = config.max_position_embeddings;
  limits["do_lower_case"] = false;  // the tokenizer does
  files["sentence_bert_config.json"] = limits.dump(2) + "\n";
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> SideFilesFromGguf(const GgufMetadata& metadata,
                                                                     const ModelConfig& config) {
  std::map<std::string, std::string> files;
  ModelConfig named = config;
  named.config_json.clear();
  RETURN_IF_ERROR(NameRopeScaling(named));
  ASSIGN_OR_RETURN(files["config.json"], WriteHfConfig(named, /*quantization_config=*/""));
  if (config.is_encoder()) {
    AddSentenceTransformersFiles(config, files);
  } else {
    files["generation_config.json"] = GenerationConfig(config);
  }
  RETURN_IF_ERROR(gguf::ReadTokenizerKeys(metadata, files));
  return files;
}

}  // namespace quantd

#include "formats/model_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "formats/architectures.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/rope_config.h"
#include "formats/huggingface/strict_json.h"

namespace quantd {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxHidden = int64_t{1} << 17;
constexpr int64_t kMaxIntermediate = int64_t{1} << 20;
constexpr int64_t kMaxLayers = 4096;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 8192;
constexpr int64_t kMaxPositions = int64_t{1} << 20;
constexpr size_t kMaxEosIds = 64;
constexpr char kFile[] = "config.json";

absl::Status Invalid(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(kFile, ": ", what));
}

absl::Status Range(absl::string_view key, int64_t value, int64_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return Invalid(absl::StrCat(key, " is ", value, ", expected an integer from 1 to ", max));
}

absl::Status Positive(absl::string_view key, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return Invalid(absl::StrCat(key, " is ", value, ", expected a positive finite number"));
}

absl::Status InVocabulary(absl::string_view key, int64_t id, int64_t vocab_size) {
  if (id >= 0 && id < vocab_size) return absl::OkStatus();
  return Invalid(
      absl::StrCat(key, " is ", id, ", expected a token id below vocab_size ", vocab_size));
}

// A token id: null is none, and so is -1, which older Llama configs write for pad_token_id.
absl::StatusOr<std::optional<int64_t>> TokenId(const JsonFields& fields, absl::string_view key,
                                               int64_t vocab_size) {
  ASSIGN_OR_RETURN(const auto id, fields.OptionalInteger(key, -1, vocab_size - 1));
  if (id && *id == -1) return std::optional<int64_t>();
  return id;
}

// eos_token_id: null, an id or a list of ids.
absl::StatusOr<std::vector<int64_t>> EosIds(const JsonFields& fields, int64_t vocab_size) {
  constexpr char kKey[] = "eos_token_id";
  std::vector<int64_t> ids;
  const Json* value = fields.Find(kKey);
  if (value == nullptr) return ids;
  if (!value->is_array()) {
    ASSIGN_OR_RETURN(const auto id, TokenId(fields, kKey, vocab_size));
    if (id) ids.push_back(*id);
    return ids;
  }
  const std::string expected =
      absl::StrCat("at most ", kMaxEosIds, " token ids below vocab_size ", vocab_size);
  if (value->size() > kMaxEosIds) return fields.Wrong(kKey, expected);
  for (const Json& element : *value) {
    if (!element.is_number_integer() ||
        (element.is_number_unsigned() && element.get<uint64_t>() > uint64_t{INT64_MAX})) {
      return fields.Wrong(kKey, expected);
    }
    const int64_t id = element.get<int64_t>();
    RETURN_IF_ERROR(InVocabulary(kKey, id, vocab_size));
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  return ids;
}

absl::StatusOr<const ArchitectureInfo*> ParseArchitecture(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const auto model_type, fields.OptionalString("model_type"));
  ASSIGN_OR_RETURN(const auto architectures, fields.OptionalStrings("architectures"));
  if (architectures.empty() && !model_type) {
    return Invalid("neither architectures nor model_type is there, expected one of " +
                   KnownArchitectures());
  }
  const ArchitectureInfo* info =
      architectures.empty() ? FindModelType(*model_type) : FindArchitecture(architectures.front());
  if (info == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat(kFile, ": architecture ",
                     Quoted(architectures.empty() ? *model_type : architectures.front()),
                     " is not supported; supported are ", KnownArchitectures()));
  }
  if (model_type && *model_type != info->model_type) {
    return Invalid(absl::StrCat("model_type is ", Quoted(*model_type), ", but architecture ",
                                info->architecture, " has ", info->model_type));
  }
  return info;
}

absl::Status ParseDimensions(const JsonFields& fields, const Json& json,
                             const ArchitectureInfo& info, ModelConfig* config) {
  ASSIGN_OR_RETURN(config->vocab_size, fields.Integer("vocab_size", 1, kMaxVocabulary));
  ASSIGN_OR_RETURN(config->hidden_size, fields.Integer("hidden_size", 1, kMaxHidden));
  ASSIGN_OR_RETURN(config->intermediate_size,
                   fields.Integer("intermediate_size", 1, kMaxIntermediate));
  ASSIGN_OR_RETURN(config->num_hidden_layers, fields.Integer("num_hidden_layers", 1, kMaxLayers));
  ASSIGN_OR_RETURN(config->num_attention_heads,
                   fields.Integer("num_attention_heads", 1, kMaxHeads));
  ASSIGN_OR_RETURN(const int64_t positions, fields.Integer("max_position_embeddings", 1,
                                                           std::numeric_limits<int64_t>::max()));
  config->max_position_embeddings =
      info.is_encoder ? positions : std::min(positions, kMaxPositions);
  const int64_t heads = config->num_attention_heads;
  config->num_key_value_heads = heads;
  if (!info.is_encoder) {
    ASSIGN_OR_RETURN(const auto kv_heads, fields.OptionalInteger("num_key_value_heads", 1, heads));
    const bool missing = !json.contains("num_key_value_heads") && info.default_kv_heads != 0;
    config->num_key_value_heads = kv_heads.value_or(missing ? info.default_kv_heads : heads);
  }
  ASSIGN_OR_RETURN(auto head_dim, fields.OptionalInteger("head_dim", 1, kMaxHeadDim));
  if (!json.contains("head_dim") && info.default_head_dim != 0) head_dim = info.default_head_dim;
  if (!head_dim && config->hidden_size % heads != 0) {
    return Invalid(absl::StrCat("hidden_size ", config->hidden_size,
                                " is not a multiple of num_attention_heads ", heads));
  }
  config->head_dim = head_dim.value_or(config->hidden_size / heads);
  return absl::OkStatus();
}

// Mistral and Phi3: a window or null. Qwen: only with use_sliding_window, and from layer
// max_window_layers on.
absl::Status ParseWindow(const JsonFields& fields, ModelConfig* config) {
  if (config->model_type == "llama" || config->is_encoder()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const auto window, fields.OptionalInteger("sliding_window", 0,
                                                             std::numeric_limits<int64_t>::max()));
  if (config->model_type == "qwen2" || config->model_type == "qwen3") {
    ASSIGN_OR_RETURN(const auto use, fields.OptionalBool("use_sliding_window"));
    ASSIGN_OR_RETURN(const auto full_layers,
                     fields.OptionalInteger("max_window_layers", 0, int64_t{1} << 31));
    const int64_t full = full_layers.value_or(28);
    if (!use.value_or(false) || full >= config->num_hidden_layers) return absl::OkStatus();
    if (full > 0) {
      return absl::UnimplementedError(
          absl::StrCat(kFile, ": a sliding window for some layers only (max_window_layers ", full,
                       ") is not supported"));
    }
  }
  config->sliding_window = window.value_or(0);
  return absl::OkStatus();
}

absl::Status ParseDecoder(const JsonFields& fields, const Json& json, ModelConfig* config) {
  ASSIGN_OR_RETURN(const auto attention_bias, fields.OptionalBool("attention_bias"));
  ASSIGN_OR_RETURN(const auto mlp_bias, fields.OptionalBool("mlp_bias"));
  ASSIGN_OR_RETURN(const auto tied, fields.OptionalBool("tie_word_embeddings"));
  const bool may_have_bias = config->model_type == "llama" || config->model_type == "qwen3";
  config->attention_bias |= may_have_bias && attention_bias.value_or(false);
  config->mlp_bias = config->model_type == "llama" && mlp_bias.value_or(false);
  config->tie_word_embeddings = tied.value_or(false);
  if (config->hidden_act == "swish") config->hidden_act = "silu";
  if (config->hidden_act != "silu") {
    return absl::UnimplementedError(absl::StrCat(kFile, ": hidden_act ", Quoted(config->hidden_act),
                                                 " is not supported for ", config->architecture,
                                                 ", only silu"));
  }
  RETURN_IF_ERROR(ParseRope(json, config));
  return ParseWindow(fields, config);
}

absl::Status ParseEncoder(const JsonFields& fields, ModelConfig* config) {
  ASSIGN_OR_RETURN(const auto types, fields.OptionalInteger("type_vocab_size", 1, 1024));
  config->type_vocab_size = types.value_or(2);
  config->mlp_bias = true;
  ASSIGN_OR_RETURN(const auto decoder, fields.OptionalBool("is_decoder"));
  ASSIGN_OR_RETURN(const auto positions, fields.OptionalString("position_embedding_type"));
  if (decoder.value_or(false) || positions.value_or("absolute") != "absolute") {
    return absl::UnimplementedError(
        absl::StrCat(kFile, ": BertModel as a decoder or with position_embedding_type ",
                     Quoted(positions.value_or("absolute")),
                     " is not supported, only encoders with absolute positions"));
  }
  constexpr absl::string_view kActivations[] = {"gelu", "gelu_new", "gelu_pytorch_tanh",
                                                "relu", "silu",     "swish"};
  if (std::find(std::begin(kActivations), std::end(kActivations), config->hidden_act) ==
      std::end(kActivations)) {
    return absl::UnimplementedError(absl::StrCat(
        kFile, ": hidden_act ", Quoted(config->hidden_act),
        " is not supported; supported are gelu, gelu_new, gelu_pytorch_tanh, relu, silu"));
  }
  return absl::OkStatus();
}

absl::Status ParseDType(const JsonFields& fields, ModelConfig* config) {
  for (const char* key : {"dtype", "torch_dtype"}) {
    ASSIGN_OR_RETURN(const auto name, fields.OptionalString(key));
    if (!name || *name == "auto") continue;
    const auto dtype = DTypeFromTorch(*name);
    if (!dtype || !InfoOf(*dtype).is_float || SizeOf(*dtype) < 2)
      return fields.Wrong(key, "a floating point dtype of torch");
    config->dtype = *dtype;
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status ParseQuantizationConfig(const JsonFields& fields, ModelConfig* config) {
  // Early compressed-tensors checkpoints call it compression_config.
  for (const char* key : {"quantization_config", "compression_config"}) {
    ASSIGN_OR_RETURN(const Json* quantization, fields.OptionalObject(key));
    if (quantization == nullptr) continue;
    config->quantization_config = quantization->dump();
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& config_json) {
  ASSIGN_OR_RETURN(const Json json, ParseStrictJsonObject(config_json, kFile));
  const JsonFields fields(json, kFile);
  ASSIGN_OR_RETURN(const ArchitectureInfo* info, ParseArchitecture(fields));
  ModelConfig config;
  config.architecture = std::string(info->architecture);
  config.model_type = std::string(info->model_type);
  config.attention_bias = info->qkv_bias;
  config.fused_projections = info->fused_projections;
  config.qk_norm = info->qk_norm;
  config.config_json = config_json;
  RETURN_IF_ERROR(ParseDimensions(fields, json, *info, &config));
  ASSIGN_OR_RETURN(const auto eps,
                   fields.OptionalNumber(info->is_encoder ? "layer_norm_eps" : "rms_norm_eps"));
  config.norm_eps = eps.value_or(info->default_norm_eps);
  ASSIGN_OR_RETURN(const auto activation, fields.OptionalString("hidden_act"));
  config.hidden_act = activation.value_or(info->is_encoder ? "gelu" : "silu");
  RETURN_IF_ERROR(info->is_encoder ? ParseEncoder(fields, &config)
                                   : ParseDecoder(fields, json, &config));
  RETURN_IF_ERROR(ParseDType(fields, &config));
  RETURN_IF_ERROR(ParseQuantizationConfig(fields, &config));
  ASSIGN_OR_RETURN(config.bos_token_id, TokenId(fields, "bos_token_id", config.vocab_size));
  ASSIGN_OR_RETURN(config.pad_token_id, TokenId(fields, "pad_token_id", config.vocab_size));
  ASSIGN_OR_RETURN(config.eos_token_ids, EosIds(fields, config.vocab_size));
  RETURN_IF_ERROR(CheckModelConfig(config));
  return config;
}

absl::Status MergeGenerationConfig(const std::string& generation_config_json, ModelConfig* config) {
  constexpr char kName[] = "generation_config.json";
  ASSIGN_OR_RETURN(const Json json, ParseStrictJsonObject(generation_config_json, kName));
  const JsonFields fields(json, kName);
  ASSIGN_OR_RETURN(const auto eos, EosIds(fields, config->vocab_size));
  for (const int64_t id : eos) {
    auto& ids = config->eos_token_ids;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
  }
  if (!config->bos_token_id) {
    ASSIGN_OR_RETURN(config->bos_token_id, TokenId(fields, "bos_token_id", config->vocab_size));
  }
  if (!config->pad_token_id) {
    ASSIGN_OR_RETURN(config->pad_token_id, TokenId(fields, "pad_token_id", config->vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckModelConfig(const ModelConfig& config) {
  RETURN_IF_ERROR(Range("vocab_size", config.vocab_size, kMaxVocabulary));
  RETURN_IF_ERROR(Range("hidden_size", config.hidden_size, kMaxHidden));
  RETURN_IF_ERROR(Range("intermediate_size", config.intermediate_size, kMaxIntermediate));
  RETURN_IF_ERROR(Range("num_hidden_layers", config.num_hidden_layers, kMaxLayers));
  RETURN_IF_ERROR(Range("num_attention_heads", config.num_attention_heads, kMaxHeads));
  RETURN_IF_ERROR(
      Range("num_key_value_heads", config.num_key_value_heads, config.num_attention_heads));
  RETURN_IF_ERROR(Range("head_dim", config.head_dim, kMaxHeadDim));
  RETURN_IF_ERROR(Range("max_position_embeddings", config.max_position_embeddings, kMaxPositions));
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    return Invalid(absl::StrCat("num_attention_heads ", config.num_attention_heads,
                                " is not a multiple of num_key_value_heads ",
                                config.num_key_value_heads));
  }
  RETURN_IF_ERROR(Positive("the norm's eps", config.norm_eps));
  if (config.is_encoder()) {
    if (config.head_dim * config.num_attention_heads != config.hidden_size) {
      return Invalid(absl::StrCat("head_dim ", config.head_dim, " times num_attention_heads ",
                                  config.num_attention_heads, " is not hidden_size ",
                                  config.hidden_size));
    }
  } else {
    RETURN_IF_ERROR(CheckRope(config));
  }
  for (const auto& [key, id] : {std::pair("bos_token_id", config.bos_token_id),
                                std::pair("pad_token_id", config.pad_token_id)}) {
    if (id) RETURN_IF_ERROR(InVocabulary(key, *id, config.vocab_size));
  }
  for (const int64_t id : config.eos_token_ids) {
    RETURN_IF_ERROR(InVocabulary("eos_token_id", id, config.vocab_size));
  }
  return absl::OkStatus();
}

}  // namespace quantd

// GGUF metadata -> ModelConfig. Nothing is allocated or looped over by a number from the file
// before the tensors have confirmed it.
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/architectures.h"
#include "quantizers/codecs/gguf/architectures.h"
#include "quantizers/codecs/gguf/metadata_fields.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/codecs/gguf/tensor_checks.h"

namespace quantd {
namespace {

using gguf::IntegerIn;
using gguf::PositiveNumber;
using gguf::QuotedName;
using gguf::RequiredInteger;

constexpr int64_t kMaxLayers = 1 << 12;
constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxHeads = 1 << 16;
constexpr int64_t kMaxPositions = 0xffffffff;

class ConfigReader {
 public:
  explicit ConfigReader(const GgufHeader& header)
      : metadata_(header.metadata), tensors_(gguf::IndexTensors(header)) {}

  absl::StatusOr<ModelConfig> Read() {
    RETURN_IF_ERROR(CheckSplit());
    RETURN_IF_ERROR(ReadArchitecture());
    RETURN_IF_ERROR(ReadVocabulary());
    RETURN_IF_ERROR(ReadSizes());
    RETURN_IF_ERROR(ReadHeads());
    RETURN_IF_ERROR(row_->is_encoder ? ReadEncoder() : ReadDecoder());
    RETURN_IF_ERROR(gguf::CheckTensors(tensors_, config_));
    RETURN_IF_ERROR(ReadTokenIds());
    config_.dtype = DTypeOfMatrices();
    return std::move(config_);
  }

 private:
  std::string Key(absl::string_view name) const { return absl::StrCat(row_->gguf, ".", name); }
  bool is_phi3() const { return config_.model_type == "phi3"; }
  bool Has(const std::string& tensor) const { return tensors_.contains(tensor); }

  absl::Status CheckSplit() const {
    ASSIGN_OR_RETURN(const std::optional<int64_t> count, metadata_.Integer("split.count"));
    if (!count || *count == 1 || *count == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("GGUF key split.count: found ", *count,
                     ", expected 1; join the parts with llama-gguf-split --merge first"));
  }

  absl::Status ReadArchitecture() {
    ASSIGN_OR_RETURN(const std::optional<std::string> name,
                     metadata_.String("general.architecture"));
    if (!name) return absl::InvalidArgumentError("GGUF key general.architecture is missing");
    row_ = gguf::FindArchitecture(*name);
    if (row_ == nullptr) {
      return absl::UnimplementedError(absl::StrCat("GGUF key general.architecture: found ",
                                                   QuotedName(*name),
                                                   ", supported: ", gguf::KnownArchitectures()));
    }
    config_.model_type = std::string(row_->model_type);
    config_.architecture = std::string(row_->hf_class);
    // As Transformers tells them apart: both have the architecture "llama".
    ASSIGN_OR_RETURN(const std::optional<std::string> title, metadata_.String("general.name"));
    if (row_->gguf == "llama" && title &&
        absl::StrContains(absl::AsciiStrToLower(*title), "mistral")) {
      config_.model_type = "mistral";
      config_.architecture = "MistralForCausalLM";
    }
    const ArchitectureInfo* info = FindModelType(config_.model_type);
    config_.fused_projections = info->fused_projections;
    config_.qk_norm = info->qk_norm;
    return absl::OkStatus();
  }

  absl::Status ReadVocabulary() {
    const auto table = tensors_.find("token_embd.weight");
    if (table == tensors_.end() || table->second->shape.size() != 2) {
      return absl::InvalidArgumentError("GGUF tensor token_embd.weight is missing or no matrix");
    }
    config_.vocab_size = table->second->shape[0];
    ASSIGN_OR_RETURN(const std::optional<int64_t> declared, metadata_.Integer(Key("vocab_size")));
    if (declared && *declared != config_.vocab_size) return Mismatch(Key("vocab_size"), *declared);
    ASSIGN_OR_RETURN(const GgufArray* tokens,
                     metadata_.Array("tokenizer.ggml.tokens", GgufValueType::kString));
    if (tokens != nullptr && static_cast<int64_t>(tokens->size()) != config_.vocab_size) {
      return Mismatch("tokenizer.ggml.tokens", static_cast<int64_t>(tokens->size()));
    }
    return absl::OkStatus();
  }

  absl::Status Mismatch(const std::string& key, int64_t found) const {
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", key, ": found ", found,
                                                   ", expected ", config_.vocab_size,
                                                   ", the rows of token_embd.weight"));
  }

  absl::Status ReadSizes() {
    ASSIGN_OR_RETURN(config_.num_hidden_layers,
                     RequiredInteger(metadata_, Key("block_count"), 1, kMaxLayers));
    ASSIGN_OR_RETURN(config_.hidden_size,
                     RequiredInteger(metadata_, Key("embedding_length"), 1, kMaxWidth));
    ASSIGN_OR_RETURN(config_.intermediate_size,
                     RequiredInteger(metadata_, Key("feed_forward_length"), 1, kMaxWidth));
    ASSIGN_OR_RETURN(config_.max_position_embeddings,
                     RequiredInteger(metadata_, Key("context_length"), 1, kMaxPositions));
    return absl::OkStatus();
  }

  absl::Status ReadHeads() {
    ASSIGN_OR_RETURN(config_.num_attention_heads,
                     RequiredInteger(metadata_, Key("attention.head_count"), 1, kMaxHeads));
    const int64_t heads = config_.num_attention_heads;
    ASSIGN_OR_RETURN(const std::optional<int64_t> kv_heads,
                     IntegerIn(metadata_, Key("attention.head_count_kv"), 1, heads));
    config_.num_key_value_heads = kv_heads.value_or(heads);
    if (heads % config_.num_key_value_heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF key ", Key("attention.head_count_kv"),
                                                     ": found ", config_.num_key_value_heads,
                                                     ", expected a divisor of ", heads, " heads"));
    }
    ASSIGN_OR_RETURN(const std::optional<int64_t> key_length,
                     IntegerIn(metadata_, Key("attention.key_length"), 1, kMaxWidth));
    ASSIGN_OR_RETURN(const std::optional<int64_t> rope_length,
                     IntegerIn(metadata_, Key("rope.dimension_count"), 1, kMaxWidth));
    if (!key_length && config_.hidden_size % heads != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF key ", Key("attention.head_count"), ": found ", heads,
                       ", expected a divisor of the embedding length ", config_.hidden_size));
    }
    config_.head_dim = key_length.value_or(config_.hidden_size / heads);
    RETURN_IF_ERROR(CheckHeadDim("attention.value_length", std::nullopt));
    if (is_phi3() && rope_length && *rope_length % 2 == 0 && *rope_length < config_.head_dim) {
      config_.rotary_dim = *rope_length;
    } else {
      RETURN_IF_ERROR(CheckHeadDim("rope.dimension_count", rope_length));
    }
    if (!row_->is_encoder && config_.head_dim % 2 != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("the head dimension of a rotary model must be even, found ",
                       config_.head_dim, " from ", Key("attention.key_length"), " or head_count"));
    }
    return absl::OkStatus();
  }

  // Values, and the rotated part, are as wide as the keys in all architectures here.
  absl::Status CheckHeadDim(absl::string_view name, std::optional<int64_t> value) const {
    if (!value) {
      ASSIGN_OR_RETURN(value, IntegerIn(metadata_, Key(name), 1, kMaxWidth));
    }
    if (!value || *value == config_.head_dim) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("GGUF key ", Key(name), ": found ", *value,
                                                   ", expected the head dimension ",
                                                   config_.head_dim));
  }

  absl::Status ReadDecoder() {
    ASSIGN_OR_RETURN(const std::optional<double> eps,
                     PositiveNumber(metadata_, Key("attention.layer_norm_rms_epsilon"), 1));
    if (!eps) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF key ", Key("attention.layer_norm_rms_epsilon"), " is missing"));
    }
    config_.norm_eps = *eps;
    ASSIGN_OR_RETURN(const std::optional<double> theta,
                     PositiveNumber(metadata_, Key("rope.freq_base"), 1e12));
    config_.rope_theta = theta.value_or(10000);
    ASSIGN_OR_RETURN(const std::optional<int64_t> window,
                     IntegerIn(metadata_, Key("attention.sliding_window"), 0, kMaxPositions));
    config_.sliding_window = window.value_or(0);
    config_.hidden_act = "silu";
    config_.tie_word_embeddings = !Has("output.weight");
    config_.attention_bias = config_.model_type == "qwen2" || Has("blk.0.attn_q.bias");
    config_.mlp_bias = Has("blk.0.ffn_up.bias");
    return ReadRopeScaling();
  }

  // The factors themselves are tensors; llama.cpp names no type.
  absl::Status ReadLongRope() {
    RopeScaling& scaling = config_.rope_scaling;
    scaling.kind = RopeScaling::Kind::kLongRope;
    ASSIGN_OR_RETURN(
        scaling.original_max_positions,
        RequiredInteger(metadata_, Key("rope.scaling.original_context_length"), 2, kMaxPositions));
    ASSIGN_OR_RETURN(const std::optional<double> factor,
                     PositiveNumber(metadata_, Key("rope.scaling.attn_factor"), 1e6));
    scaling.attention_factor = factor.value_or(1);
    return absl::OkStatus();
  }

  absl::Status ReadRopeScaling() {
    const bool has_factors =
        Has(std::string(kRopeLongFactors)) || Has(std::string(kRopeShortFactors));
    if (is_phi3() && has_factors) return ReadLongRope();
    ASSIGN_OR_RETURN(const std::optional<std::string> type,
                     metadata_.String(Key("rope.scaling.type")));
    if (type && *type != "none" && *type != "linear") {
      return absl::UnimplementedError(absl::StrCat("GGUF key ", Key("rope.scaling.type"),
                                                   ": found ", QuotedName(*type),
                                                   ", supported: none, linear"));
    }
    ASSIGN_OR_RETURN(std::optional<double> factor,
                     PositiveNumber(metadata_, Key("rope.scaling.factor"), 1e6));
    if (!factor) {
      ASSIGN_OR_RETURN(factor, PositiveNumber(metadata_, Key("rope.scale_linear"), 1e6));
    }
    if ((type && *type == "none") || !factor || *factor == 1) return absl::OkStatus();
    config_.rope_scaling.kind = RopeScaling::Kind::kLinear;
    config_.rope_scaling.factor = *factor;
    return absl::OkStatus();
  }

  absl::Status ReadEncoder() {
    ASSIGN_OR_RETURN(const std::optional<double> eps,
                     PositiveNumber(metadata_, Key("attention.layer_norm_epsilon"), 1));
    config_.norm_eps = eps.value_or(1e-12);
    config_.hidden_act = "gelu";
    config_.attention_bias = config_.mlp_bias = true;
    ASSIGN_OR_RETURN(const std::optional<bool> causal, metadata_.Bool(Key("attention.causal")));
    if (causal.value_or(false)) {
      return absl::UnimplementedError(absl::StrCat("GGUF key ", Key("attention.causal"),
                                                   ": causal encoders are not supported"));
    }
    ASSIGN_OR_RETURN(const std::optional<int64_t> pooling,
                     IntegerIn(metadata_, Key("pooling_type"), 0, 2));
    config_.pooling = pooling.value_or(1) == 2 ? "cls" : "mean";
    // No key says so; llama.cpp's embeddings have length 1 unless the caller asks otherwise.
    config_.normalize_embedding = true;
    const auto types = tensors_.find("token_types.weight");
    if (types == tensors_.end() || types->second->shape.size() != 2) {
      return absl::InvalidArgumentError("GGUF tensor token_types.weight is missing or no matrix");
    }
    config_.type_vocab_size = types->second->shape[0];
    return absl::OkStatus();
  }

  absl::StatusOr<std::optional<int64_t>> TokenId(absl::string_view name) const {
    return IntegerIn(metadata_, absl::StrCat("tokenizer.ggml.", name), 0, config_.vocab_size - 1);
  }

  absl::Status ReadTokenIds() {
    ASSIGN_OR_RETURN(config_.bos_token_id, TokenId("bos_token_id"));
    ASSIGN_OR_RETURN(config_.pad_token_id, TokenId("padding_token_id"));
    // Generation ends at any of these.
    for (const absl::string_view name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      ASSIGN_OR_RETURN(const std::optional<int64_t> id, TokenId(name));
      if (!id || row_->is_encoder) continue;
      bool known = false;
      for (const int64_t other : config_.eos_token_ids) known |= other == *id;
      if (!known) config_.eos_token_ids.push_back(*id);
    }
    return absl::OkStatus();
  }

  // What the unquantized model was: the common type of plain matrices, else bfloat16.
  DType DTypeOfMatrices() const {
    std::optional<GgmlType> common;
    for (const auto& [name, tensor] : tensors_) {
      if (tensor->shape.size() != 2 || name == "position_embd.weight" ||
          name == "token_types.weight") {
        continue;
      }
      if (common && *common != tensor->type) return DType::kBF16;
      common = tensor->type;
    }
    if (common == GgmlType::kF32) return DType::kF32;
    return common == GgmlType::kF16 ? DType::kF16 : DType::kBF16;
  }

  const GgufMetadata& metadata_;
  gguf::TensorIndex tensors_;
  const gguf::Architecture* row_ = nullptr;
  ModelConfig config_;
};

}  // namespace

absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufHeader& header) {
  return ConfigReader(header).Read();
}

}  // namespace quantd

// ModelConfig and tokenizer files -> GGUF metadata, in the order of the upstream converter.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "quantizers/codecs/gguf/architectures.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/codecs/gguf/tokenizer_keys.h"

namespace quantd {
namespace {

// "models/tiny-llama" -> "Tiny Llama": lower-case words get a capital, versions and sizes do not.
std::string TitleOf(absl::string_view model_name) {
  std::string last(model_name.substr(model_name.rfind('/') + 1));
  std::vector<std::string> words =
      absl::StrSplit(absl::StrReplaceAll(last, {{"-", " "}}), ' ', absl::SkipWhitespace());
  for (std::string& word : words) {
    const bool lower = std::none_of(word.begin(), word.end(), absl::ascii_isupper) &&
                       std::any_of(word.begin(), word.end(), absl::ascii_islower);
    const bool version = word.size() > 1 && word[0] == 'v' && absl::ascii_isdigit(word[1]);
    if (!lower || version || absl::ascii_isdigit(word[0])) continue;
    bool start = true;
    for (char& c : word) {
      if (start) c = absl::ascii_toupper(c);
      start = !absl::ascii_isalpha(c);
    }
  }
  return absl::StrJoin(words, " ");
}

double ParameterCount(const ModelConfig& c) {
  const double hidden = static_cast<double>(c.hidden_size);
  const double ffn = static_cast<double>(c.intermediate_size);
  const double q = static_cast<double>(c.num_attention_heads * c.head_dim);
  const double kv = static_cast<double>(c.num_key_value_heads * c.head_dim);
  double layer = 2 * hidden * (q + kv) + (c.is_encoder() ? 2 : 3) * hidden * ffn + 2 * hidden;
  double outside = static_cast<double>(c.vocab_size) * hidden + hidden;
  if (c.attention_bias) layer += q + 2 * kv;
  if (c.qk_norm) layer += 2 * static_cast<double>(c.head_dim);
  if (c.is_encoder()) {
    layer += hidden + ffn + hidden + 2 * hidden;  // output, up, down; biases of both norms
    outside += hidden + hidden * static_cast<double>(c.max_position_embeddings + c.type_vocab_size);
  } else {
    if (!c.tie_word_embeddings) outside += static_cast<double>(c.vocab_size) * hidden;
    if (c.mlp_bias) layer += 2 * ffn + hidden;
  }
  return outside + static_cast<double>(c.num_hidden_layers) * layer;
}

// "1.4M", "135M", "7B": two digits at least.
std::string SizeLabel(double parameters) {
  const char* unit = "K";
  double scale = 1e3;
  if (parameters > 1e12) {
    unit = "T", scale = 1e12;
  } else if (parameters > 1e9) {
    unit = "B", scale = 1e9;
  } else if (parameters > 1e6) {
    unit = "M", scale = 1e6;
  }
  const double scaled = parameters / scale;
  const double rounded = std::nearbyint(scaled);
  const int digits = rounded >= 10 ? 2 : rounded >= 1 ? 1 : 0;
  return absl::StrCat(absl::StrFormat("%.*f", 2 - digits, scaled), unit);
}

// Whether config.json spells the head dimension out.
bool NamesHeadDim(const ModelConfig& config) {
  if (config.config_json.empty()) {
    return config.head_dim * config.num_attention_heads != config.hidden_size;
  }
  const auto json = nlohmann::json::parse(config.config_json, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return false;
  const auto it = json.find("head_dim");
  return it != json.end() && !it->is_null();
}

class MetadataWriter {
 public:
  MetadataWriter(const ModelConfig& config, const gguf::Architecture& row)
      : config_(config), row_(row) {}

  void WriteGeneral(absl::string_view model_name) {
    out_.SetString("general.architecture", std::string(row_.gguf));
    out_.SetString("general.type", "model");
    out_.SetString("general.name", TitleOf(model_name));
    out_.SetString("general.size_label", SizeLabel(ParameterCount(config_)));
  }

  void WriteSizes() {
    U32("block_count", config_.num_hidden_layers);
    U32("context_length", config_.max_position_embeddings);
    U32("embedding_length", config_.hidden_size);
    U32("feed_forward_length", config_.intermediate_size);
    U32("attention.head_count", config_.num_attention_heads);
  }

  void WritePhi3() {
    const RopeScaling& rope = config_.rope_scaling;
    const bool is_long = rope.kind == RopeScaling::Kind::kLongRope;
    U32("context_length", config_.max_position_embeddings);
    U32("rope.scaling.original_context_length",
        is_long ? rope.original_max_positions : config_.max_position_embeddings);
    U32("embedding_length", config_.hidden_size);
    U32("feed_forward_length", config_.intermediate_size);
    U32("block_count", config_.num_hidden_layers);
    U32("attention.head_count", config_.num_attention_heads);
    U32("attention.head_count_kv", config_.num_key_value_heads);
    if (config_.head_dim * config_.num_attention_heads != config_.hidden_size) WriteHeadDim();
    F32("attention.layer_norm_rms_epsilon", config_.norm_eps);
    U32("rope.dimension_count", config_.rotary_dims());
    F32("rope.freq_base", config_.rope_theta);
    U32("attention.sliding_window", config_.sliding_window);  // 0 says that it has none
    if (is_long) F32("rope.scaling.attn_factor", rope.attention_factor);
  }

  void WriteDecoder() {
    U32("attention.head_count_kv", config_.num_key_value_heads);
    F32("rope.freq_base", config_.rope_theta);
    F32("attention.layer_norm_rms_epsilon", config_.norm_eps);
    if (NamesHeadDim(config_)) WriteHeadDim();
    if (config_.sliding_window > 0) U32("attention.sliding_window", config_.sliding_window);
    if (row_.gguf == "llama") {
      U32("vocab_size", config_.vocab_size);
      U32("rope.dimension_count", config_.head_dim);
    }
    if (config_.rope_scaling.kind == RopeScaling::Kind::kLinear) {
      out_.SetString(Key("rope.scaling.type"), "linear");
      F32("rope.scaling.factor", config_.rope_scaling.factor);
    }
  }

  void WriteEncoder() {
    F32("attention.layer_norm_epsilon", config_.norm_eps);
    out_.SetBool(Key("attention.causal"), false);
    U32("pooling_type", config_.pooling == "cls" ? 2 : 1);
    out_.SetU32("tokenizer.ggml.token_type_count", static_cast<uint32_t>(config_.type_vocab_size));
  }

  GgufMetadata& metadata() { return out_; }

 private:
  std::string Key(absl::string_view name) const { return absl::StrCat(row_.gguf, ".", name); }
  void U32(absl::string_view name, int64_t value) {
    out_.SetU32(Key(name), static_cast<uint32_t>(value));
  }
  void WriteHeadDim() {
    U32("attention.key_length", config_.head_dim);
    U32("attention.value_length", config_.head_dim);
  }
  void F32(absl::string_view name, double value) {
    out_.SetF32(Key(name), static_cast<float>(value));
  }

  const ModelConfig& config_;
  const gguf::Architecture& row_;
  GgufMetadata out_;
};

}  // namespace

absl::StatusOr<GgufMetadata> MetadataForModel(const ModelConfig& config,
                                              const std::map<std::string, std::string>& side_files,
                                              absl::string_view model_name, uint32_t file_type) {
  const gguf::Architecture* row = gguf::ArchitectureOf(config);
  if (row == nullptr) {
    return absl::UnimplementedError(absl::StrCat("GGUF has no architecture for ",
                                                 config.architecture, "; it has ",
                                                 gguf::KnownArchitectures()));
  }
  if (config.pooling == "max" && row->is_encoder) {
    return absl::UnimplementedError("GGUF has no max pooling; it has mean and cls");
  }
  MetadataWriter writer(config, *row);
  writer.WriteGeneral(model_name);
  if (row->gguf == "phi3") {
    writer.WritePhi3();
  } else {
    writer.WriteSizes();
    row->is_encoder ? writer.WriteEncoder() : writer.WriteDecoder();
  }
  RETURN_IF_ERROR(gguf::WriteTokenizerKeys(config, side_files, writer.metadata()));
  writer.metadata().SetU32("general.quantization_version", 2);
  writer.metadata().SetU32("general.file_type", file_type);
  return std::move(writer.metadata());
}

}  // namespace quantd

#include "quantizers/codecs/gguf/tokenizer_keys.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/tokenizer_json.h"
#include "quantizers/codecs/gguf/metadata_fields.h"

namespace quantd {
namespace gguf {
namespace {

using IdMember = std::optional<int64_t> GgufVocabulary::*;
using FlagMember = std::optional<bool> GgufVocabulary::*;

// In the converter's order.
constexpr std::pair<absl::string_view, IdMember> kIds[] = {
    {"tokenizer.ggml.bos_token_id", &GgufVocabulary::bos_id},
    {"tokenizer.ggml.eos_token_id", &GgufVocabulary::eos_id},
    {"tokenizer.ggml.unknown_token_id", &GgufVocabulary::unk_id},
    {"tokenizer.ggml.seperator_token_id", &GgufVocabulary::sep_id},  // spelled so upstream
    {"tokenizer.ggml.padding_token_id", &GgufVocabulary::pad_id},
    {"tokenizer.ggml.cls_token_id", &GgufVocabulary::cls_id},
    {"tokenizer.ggml.mask_token_id", &GgufVocabulary::mask_id},
};
constexpr std::pair<absl::string_view, FlagMember> kFlags[] = {
    {"tokenizer.ggml.add_bos_token", &GgufVocabulary::add_bos},
    {"tokenizer.ggml.add_eos_token", &GgufVocabulary::add_eos},
    {"tokenizer.ggml.add_space_prefix", &GgufVocabulary::add_space_prefix},
};

absl::StatusOr<std::vector<std::string>> Strings(const GgufMetadata& metadata,
                                                 absl::string_view key) {
  ASSIGN_OR_RETURN(const GgufArray* array, metadata.Array(key, GgufValueType::kString));
  return array != nullptr ? array->strings : std::vector<std::string>();
}

void SetArray(GgufMetadata& metadata, absl::string_view key, GgufArray array) {
  if (array.size() == 0) return;  // upstream has no empty arrays
  metadata.Set(key, {GgufValueType::kArray, std::move(array)});
}

void WriteKeys(GgufVocabulary vocabulary, GgufMetadata& metadata) {
  metadata.SetString("tokenizer.ggml.model", vocabulary.model);
  metadata.SetString("tokenizer.ggml.pre", vocabulary.pre.empty() ? "default" : vocabulary.pre);
  metadata.SetStrings("tokenizer.ggml.tokens", std::move(vocabulary.tokens));
  SetArray(metadata, "tokenizer.ggml.scores",
           {.element_type = GgufValueType::kF32,
            .floats = {vocabulary.scores.begin(), vocabulary.scores.end()}});
  SetArray(metadata, "tokenizer.ggml.token_type",
           {.element_type = GgufValueType::kI32,
            .integers = {vocabulary.token_types.begin(), vocabulary.token_types.end()}});
  if (!vocabulary.merges.empty()) {
    metadata.SetStrings("tokenizer.ggml.merges", std::move(vocabulary.merges));
  }
  for (const auto& [key, id] : kIds) {
    if (vocabulary.*id) metadata.SetU32(key, static_cast<uint32_t>(*(vocabulary.*id)));
  }
  for (const auto& [key, flag] : kFlags) {
    if (vocabulary.*flag) metadata.SetBool(key, *(vocabulary.*flag));
  }
  if (!vocabulary.chat_template.empty()) {
    metadata.SetString("tokenizer.chat_template", std::move(vocabulary.chat_template));
  }
}

std::string SpecialTokensMap(const GgufVocabulary& vocabulary) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  const auto add = [&](const char* name, std::optional<int64_t> id) {
    const int64_t count = static_cast<int64_t>(vocabulary.tokens.size());
    if (id && *id >= 0 && *id < count) json[name] = vocabulary.tokens[*id];
  };
  add("bos_token", vocabulary.bos_id);
  add("eos_token", vocabulary.eos_id);
  add("unk_token", vocabulary.unk_id);
  add("sep_token", vocabulary.sep_id);
  add("pad_token", vocabulary.pad_id);
  add("cls_token", vocabulary.cls_id);
  add("mask_token", vocabulary.mask_id);
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::Status WriteTokenizerKeys(const ModelConfig& config,
                                const std::map<std::string, std::string>& side_files,
                                GgufMetadata& metadata) {
  const auto tokenizer = side_files.find("tokenizer.json");
  if (tokenizer == side_files.end()) {
    metadata.SetString("tokenizer.ggml.model", "none");
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(TokenizerSpec spec, ParseTokenizerJson(tokenizer->second));
  const auto settings = side_files.find("tokenizer_config.json");
  if (settings != side_files.end()) {
    RETURN_IF_ERROR(ApplyTokenizerConfigJson(settings->second, &spec));
  }
  const auto chat_template = side_files.find("chat_template.jinja");
  if (chat_template != side_files.end()) spec.chat_template = chat_template->second;
  ASSIGN_OR_RETURN(GgufVocabulary vocabulary, GgufVocabularyFromSpec(spec, config.vocab_size));
  if (!vocabulary.bos_id) vocabulary.bos_id = config.bos_token_id;
  if (!vocabulary.eos_id && !config.eos_token_ids.empty()) {
    vocabulary.eos_id = config.eos_token_ids[0];
  }
  if (!vocabulary.pad_id) vocabulary.pad_id = config.pad_token_id;
  WriteKeys(std::move(vocabulary), metadata);
  return absl::OkStatus();
}

absl::Status ReadTokenizerKeys(const GgufMetadata& metadata,
                               std::map<std::string, std::string>& side_files) {
  ASSIGN_OR_RETURN(const std::optional<std::string> model, metadata.String("tokenizer.ggml.model"));
  if (!model || *model == "none" || *model == "no_vocab") return absl::OkStatus();
  ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, VocabularyFromGguf(metadata));
  ASSIGN_OR_RETURN(const TokenizerSpec spec, TokenizerSpecFromGguf(vocabulary));
  side_files["tokenizer.json"] = WriteTokenizerJson(spec);
  side_files["tokenizer_config.json"] = WriteTokenizerConfigJson(spec);
  side_files["special_tokens_map.json"] = SpecialTokensMap(vocabulary);
  return absl::OkStatus();
}

}  // namespace gguf

absl::StatusOr<GgufVocabulary> VocabularyFromGguf(const GgufMetadata& metadata) {
  GgufVocabulary out;
  ASSIGN_OR_RETURN(const std::optional<std::string> model, metadata.String("tokenizer.ggml.model"));
  if (!model) return absl::InvalidArgumentError("GGUF key tokenizer.ggml.model is missing");
  if (*model != "gpt2" && *model != "llama" && *model != "bert") {
    return absl::UnimplementedError(absl::StrCat("GGUF key tokenizer.ggml.model: found ",
                                                 gguf::QuotedName(*model),
                                                 ", supported: gpt2, llama, bert"));
  }
  out.model = *model;
  ASSIGN_OR_RETURN(const std::optional<std::string> pre, metadata.String("tokenizer.ggml.pre"));
  out.pre = pre.value_or("");
  ASSIGN_OR_RETURN(out.tokens, gguf::Strings(metadata, "tokenizer.ggml.tokens"));
  ASSIGN_OR_RETURN(out.merges, gguf::Strings(metadata, "tokenizer.ggml.merges"));
  ASSIGN_OR_RETURN(const GgufArray* scores,
                   metadata.Array("tokenizer.ggml.scores", GgufValueType::kF32));
  if (scores != nullptr) out.scores.assign(scores->floats.begin(), scores->floats.end());
  ASSIGN_OR_RETURN(const GgufArray* types,
                   metadata.Array("tokenizer.ggml.token_type", GgufValueType::kI32));
  if (types != nullptr) out.token_types.assign(types->integers.begin(), types->integers.end());
  for (const auto& [key, id] : gguf::kIds) {
    ASSIGN_OR_RETURN(out.*id, metadata.Integer(key));
  }
  for (const auto& [key, flag] : gguf::kFlags) {
    ASSIGN_OR_RETURN(out.*flag, metadata.Bool(key));
  }
  ASSIGN_OR_RETURN(const std::optional<std::string> chat_template,
                   metadata.String("tokenizer.chat_template"));
  out.chat_template = chat_template.value_or("");
  return out;
}

}  // namespace quantd

#include "models/model_text.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/tokenizer_json.h"
#include "quantizers/codecs/gguf/tokenizer_keys.h"

namespace quantd {
namespace {

absl::Status In(absl::string_view file, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
}

std::string Spelling(const Tokenizer& tokenizer, std::optional<int32_t> id) {
  const std::optional<absl::string_view> token = id ? tokenizer.IdToToken(*id) : std::nullopt;
  return token ? std::string(*token) : "";
}

absl::StatusOr<ModelText> FromSpec(const TokenizerSpec& spec, int64_t rows) {
  ModelText text;
  ASSIGN_OR_RETURN(text.tokenizer, Tokenizer::Create(spec, rows));
  text.chat_tokens = {.bos = Spelling(*text.tokenizer, spec.bos_id),
                      .eos = Spelling(*text.tokenizer, spec.eos_id)};
  if (spec.chat_template.empty()) return text;
  absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(spec.chat_template);
  text.chat_status = In("chat template", parsed.status());
  if (parsed.ok()) text.chat_template = *std::move(parsed);
  return text;
}

absl::StatusOr<ModelText> FromGguf(const GgufMetadata& metadata, int64_t rows) {
  if (metadata.Find("tokenizer.ggml.tokens") == nullptr) return ModelText{};
  ASSIGN_OR_RETURN(const GgufVocabulary vocabulary, VocabularyFromGguf(metadata));
  ASSIGN_OR_RETURN(const TokenizerSpec spec, TokenizerSpecFromGguf(vocabulary));
  return FromSpec(spec, rows);
}

absl::StatusOr<ModelText> FromFiles(const SideFiles& files, int64_t rows) {
  const auto tokenizer_json = files.find("tokenizer.json");
  if (tokenizer_json == files.end()) return ModelText{};
  absl::StatusOr<TokenizerSpec> spec = ParseTokenizerJson(tokenizer_json->second);
  RETURN_IF_ERROR(In("tokenizer.json", spec.status()));
  if (const auto config = files.find("tokenizer_config.json"); config != files.end()) {
    RETURN_IF_ERROR(In("tokenizer_config.json", ApplyTokenizerConfigJson(config->second, &*spec)));
  }
  // A file of its own wins, as in transformers 4.57.
  if (const auto jinja = files.find("chat_template.jinja"); jinja != files.end()) {
    spec->chat_template = jinja->second;
  }
  absl::StatusOr<ModelText> text = FromSpec(*spec, rows);
  RETURN_IF_ERROR(In("tokenizer.json", text.status()));
  return text;
}

}  // namespace

absl::StatusOr<ModelText> LoadModelText(const ModelSource& source) {
  const int64_t rows = source.config().vocab_size;
  if (const GgufMetadata* metadata = source.gguf_metadata()) return FromGguf(*metadata, rows);
  ASSIGN_OR_RETURN(const SideFiles files, source.side_files());
  return FromFiles(files, rows);
}

absl::StatusOr<std::optional<int32_t>> LeadingBos(const Tokenizer& tokenizer) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids, tokenizer.Encode(""));
  if (ids.empty() || !tokenizer.bos_id() || ids[0] != *tokenizer.bos_id()) return std::nullopt;
  return tokenizer.bos_id();
}

}  // namespace quantd

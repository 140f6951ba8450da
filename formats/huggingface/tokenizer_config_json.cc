#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "formats/huggingface/json_fields.h"
#include "formats/huggingface/tokenizer_json.h"
#include "formats/huggingface/tokenizer_json_document.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr size_t kMaxChatTemplateBytes = size_t{1} << 20;

std::optional<int32_t> IdOfToken(const TokenizerSpec& spec, const std::string& token) {
  for (const AddedTokenSpec& added : spec.added_tokens) {
    if (added.content == token) return added.id;
  }
  for (const VocabularyEntry& entry : spec.model.vocabulary) {
    if (entry.token == token) return entry.id;
  }
  return std::nullopt;
}

// The text of a special token: a string, or an AddedToken object with "content".
std::optional<std::string> TokenText(JsonFields& fields, const char* name) {
  const json* value = fields.Find(name);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) {
    const auto content = value->find("content");
    if (content != value->end() && content->is_string()) return content->get<std::string>();
  }
  if (value->is_string()) return value->get<std::string>();
  fields.Invalid(name, "expected a string, or an object with a string \"content\"");
  return std::nullopt;
}

// A string, or a list of {name, template} of which "default" (else the first) is taken.
std::string ChatTemplate(JsonFields& fields) {
  const json* value = fields.Find("chat_template");
  if (value == nullptr) return "";
  std::string found;
  if (value->is_string()) {
    found = value->get<std::string>();
  } else if (value->is_array()) {
    bool is_default = false;
    for (const json& element : *value) {
      absl::Status status;
      JsonFields entry(element, "tokenizer_config.json: chat_template", &status);
      const std::string name = entry.String("name");
      std::string text = entry.String("template");
      if (!status.ok()) {
        fields.Invalid("chat_template", status.message());
        return "";
      }
      if (found.empty() || (name == "default" && !is_default)) found = std::move(text);
      is_default = is_default || name == "default";
    }
  } else {
    fields.Invalid("chat_template", "expected a string or an array");
  }
  if (found.size() > kMaxChatTemplateBytes) {
    fields.TooLarge("chat_template",
                    absl::StrCat(found.size(), " bytes, the limit is ", kMaxChatTemplateBytes));
  }
  return found;
}

}  // namespace

absl::Status ApplyTokenizerConfigJson(absl::string_view text, TokenizerSpec* spec) {
  constexpr absl::string_view kFile = "tokenizer_config.json";
  ASSIGN_OR_RETURN(const TokenizerJsonDocument document,
                   ReadTokenizerDocument(text, kFile, /*tables=*/false));
  absl::Status status;
  JsonFields fields(document.root, std::string(kFile), &status);
  const std::pair<const char*, std::optional<int32_t>*> specials[] = {{"bos_token", &spec->bos_id},
                                                                      {"eos_token", &spec->eos_id},
                                                                      {"pad_token", &spec->pad_id},
                                                                      {"unk_token", &spec->unk_id}};
  for (const auto& [name, id] : specials) {
    const auto token = TokenText(fields, name);
    if (!token) continue;
    *id = IdOfToken(*spec, *token);
    if (!*id) fields.Invalid(name, absl::StrCat(Quoted(*token), " is not in the vocabulary"));
  }
  if (fields.Find("add_bos_token") != nullptr) spec->add_bos_token = fields.Bool("add_bos_token");
  if (fields.Find("add_eos_token") != nullptr) spec->add_eos_token = fields.Bool("add_eos_token");
  if (std::string found = ChatTemplate(fields); !found.empty()) {
    spec->chat_template = std::move(found);
  }
  // Transformers writes 1e30 for "no limit".
  const json* length = fields.Find("model_max_length");
  if (length != nullptr && length->is_number_unsigned()) {
    spec->model_max_length = length->get<uint64_t>();
  }
  return status;
}

}  // namespace quantd

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/tokenizer_json.h"
#include "formats/huggingface/tokenizer_json_components.h"

namespace quantd {
namespace {

using Json = nlohmann::ordered_json;
using Kind = TokenizationModelSpec::Kind;

std::string Dump(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

// ordered_json looks keys up linearly, so the tables are written by hand.
void AppendVocabulary(const TokenizationModelSpec& model, std::string* out) {
  const bool list = model.kind == Kind::kUnigram;
  absl::StrAppend(out, "\"vocab\":", list ? "[" : "{");
  const char* separator = "\n";
  for (const VocabularyEntry& entry : model.vocabulary) {
    if (list) {
      absl::StrAppend(out, separator, "[", Dump(entry.token), ",", Dump(entry.score), "]");
    } else {
      absl::StrAppend(out, separator, Dump(entry.token), ":", entry.id);
    }
    separator = ",\n";
  }
  absl::StrAppend(out, list ? "]" : "}");
}

void AppendMerges(const TokenizationModelSpec& model, std::string* out) {
  absl::StrAppend(out, ",\n\"merges\":[");
  const char* separator = "\n";
  for (const auto& [left, right] : model.merges) {
    absl::StrAppend(out, separator, "[", Dump(left), ",", Dump(right), "]");
    separator = ",\n";
  }
  absl::StrAppend(out, "]");
}

Json OrNull(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

Json ModelFields(const TokenizationModelSpec& model) {
  const Json unk = model.unk_token ? Json(*model.unk_token) : Json(nullptr);
  switch (model.kind) {
    case Kind::kBpe:
      return {{"type", "BPE"},
              {"dropout", nullptr},
              {"unk_token", unk},
              {"continuing_subword_prefix", OrNull(model.continuing_subword_prefix)},
              {"end_of_word_suffix", OrNull(model.end_of_word_suffix)},
              {"fuse_unk", model.fuse_unk},
              {"byte_fallback", model.byte_fallback},
              {"ignore_merges", model.ignore_merges}};
    case Kind::kWordPiece:
      return {{"type", "WordPiece"},
              {"unk_token", unk},
              {"continuing_subword_prefix", model.continuing_subword_prefix},
              {"max_input_chars_per_word", model.max_input_chars_per_word}};
    case Kind::kWordLevel:
      return {{"type", "WordLevel"}, {"unk_token", unk}};
    case Kind::kUnigram:
      break;
  }
  return {{"type", "Unigram"},
          {"unk_id", model.unk_id ? Json(*model.unk_id) : Json(nullptr)},
          {"byte_fallback", model.byte_fallback}};
}

std::string ModelText(const TokenizationModelSpec& model) {
  std::string out = Dump(ModelFields(model));
  out.back() = ',';  // the closing brace comes after the tables
  out += '\n';
  AppendVocabulary(model, &out);
  if (model.kind == Kind::kBpe) AppendMerges(model, &out);
  out += '}';
  return out;
}

Json AddedTokenJson(const AddedTokenSpec& token, bool with_id) {
  Json json = Json::object();
  if (with_id) json["id"] = token.id;
  json["content"] = token.content;
  json["single_word"] = token.single_word;
  json["lstrip"] = token.lstrip;
  json["rstrip"] = token.rstrip;
  json["normalized"] = token.normalized;
  json["special"] = token.special;
  return json;
}

Json TruncationJson(const std::optional<TruncationSpec>& spec) {
  if (!spec) return nullptr;
  return {{"direction", spec->direction},
          {"max_length", spec->max_length},
          {"strategy", spec->strategy},
          {"stride", spec->stride}};
}

Json PaddingJson(const std::optional<PaddingSpec>& spec) {
  if (!spec) return nullptr;
  Json strategy = "BatchLongest";
  if (spec->fixed_length) strategy = {{"Fixed", *spec->fixed_length}};
  Json multiple = nullptr;
  if (spec->pad_to_multiple_of != 0) multiple = spec->pad_to_multiple_of;
  return {{"strategy", strategy},
          {"direction", spec->direction},
          {"pad_to_multiple_of", multiple},
          {"pad_id", spec->pad_id},
          {"pad_type_id", spec->pad_type_id},
          {"pad_token", spec->pad_token}};
}

// By id: upstream numbers added tokens in file order.
std::vector<const AddedTokenSpec*> AddedTokensById(const TokenizerSpec& spec) {
  std::vector<const AddedTokenSpec*> tokens;
  for (const AddedTokenSpec& token : spec.added_tokens) tokens.push_back(&token);
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto* a, const auto* b) { return a->id < b->id; });
  return tokens;
}

std::optional<std::string> TokenOfId(const TokenizerSpec& spec, std::optional<int32_t> id) {
  if (!id) return std::nullopt;
  for (const AddedTokenSpec& token : spec.added_tokens) {
    if (token.id == *id) return token.content;
  }
  for (const VocabularyEntry& entry : spec.model.vocabulary) {
    if (entry.id == *id) return entry.token;
  }
  return std::nullopt;
}

}  // namespace

std::string WriteTokenizerJson(const TokenizerSpec& spec) {
  Json added = Json::array();
  for (const AddedTokenSpec* token : AddedTokensById(spec)) {
    added.push_back(AddedTokenJson(*token, /*with_id=*/true));
  }
  return absl::StrCat(
      "{\n\"version\":\"1.0\",\n\"truncation\":", Dump(TruncationJson(spec.truncation)),
      ",\n\"padding\":", Dump(PaddingJson(spec.padding)), ",\n\"added_tokens\":", Dump(added),
      ",\n\"normalizer\":", Dump(NormalizerJson(spec.normalizer)),
      ",\n\"pre_tokenizer\":", Dump(PreTokenizerJson(spec.pre_tokenizer)),
      ",\n\"post_processor\":", Dump(PostProcessorJson(spec.post_processor)),
      ",\n\"decoder\":", Dump(DecoderJson(spec.decoder)), ",\n\"model\":", ModelText(spec.model),
      "\n}\n");
}

std::string WriteTokenizerConfigJson(const TokenizerSpec& spec) {
  Json config = Json::object();
  if (spec.add_bos_token) config["add_bos_token"] = *spec.add_bos_token;
  if (spec.add_eos_token) config["add_eos_token"] = *spec.add_eos_token;
  Json added = Json::object();
  for (const AddedTokenSpec* token : AddedTokensById(spec)) {
    added.push_back({absl::StrCat(token->id), AddedTokenJson(*token, /*with_id=*/false)});
  }
  config["added_tokens_decoder"] = std::move(added);
  const std::pair<const char*, std::optional<int32_t>> specials[] = {{"bos_token", spec.bos_id},
                                                                     {"eos_token", spec.eos_id},
                                                                     {"pad_token", spec.pad_id},
                                                                     {"unk_token", spec.unk_id}};
  for (const auto& [name, id] : specials) {
    if (const auto token = TokenOfId(spec, id)) config[name] = *token;
  }
  if (!spec.chat_template.empty()) config["chat_template"] = spec.chat_template;
  config["clean_up_tokenization_spaces"] = false;
  if (spec.model_max_length) config["model_max_length"] = *spec.model_max_length;
  config["tokenizer_class"] = "PreTrainedTokenizerFast";
  return config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace quantd

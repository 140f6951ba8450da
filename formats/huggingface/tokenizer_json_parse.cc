#include <algorithm>
#include <limits>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "formats/huggingface/json_fields.h"
#include "formats/huggingface/tokenizer_json.h"
#include "formats/huggingface/tokenizer_json_components.h"
#include "formats/huggingface/tokenizer_json_document.h"

namespace quantd {
namespace {

using nlohmann::json;
using Kind = TokenizationModelSpec::Kind;

constexpr size_t kMaxAddedTokens = 65536;
constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

const json& FieldOrNull(const json& object, const char* name) {
  static const json* const kNull = new json();
  const auto it = object.find(name);
  return it == object.end() ? *kNull : *it;
}

// Old files leave the type out; the fields tell.
std::string ModelType(JsonFields& fields, bool has_merges, bool list) {
  if (fields.Find("type") != nullptr) return fields.String("type");
  if (has_merges || fields.Find("merges") != nullptr) return "BPE";
  if (list) return "Unigram";
  return fields.Find("continuing_subword_prefix") != nullptr ? "WordPiece" : "WordLevel";
}

void ParseBpeFields(JsonFields& fields, TokenizationModelSpec* model) {
  model->kind = Kind::kBpe;
  if (fields.Find("unk_token") != nullptr) model->unk_token = fields.String("unk_token");
  model->continuing_subword_prefix = fields.String("continuing_subword_prefix", "");
  model->end_of_word_suffix = fields.String("end_of_word_suffix", "");
  model->fuse_unk = fields.Bool("fuse_unk", false);
  model->byte_fallback = fields.Bool("byte_fallback", false);
  model->ignore_merges = fields.Bool("ignore_merges", false);
  if (const json* dropout = fields.Find("dropout"); dropout != nullptr) {
    if (!dropout->is_number()) {
      fields.Invalid("dropout", "expected a number");
    } else if (dropout->get<double>() != 0) {
      fields.Unimplemented("dropout", "random segmentation is not supported; set it to null");
    }
  }
}

absl::Status ParseModel(TokenizerJsonDocument document, TokenizationModelSpec* model) {
  absl::Status status;
  JsonFields fields(FieldOrNull(document.root, "model"), "tokenizer.json: model", &status);
  RETURN_IF_ERROR(status);
  const std::string type = ModelType(fields, !document.merges.empty(), document.vocabulary_is_list);
  RETURN_IF_ERROR(status);
  if (type == "BPE") {
    ParseBpeFields(fields, model);
  } else if (type == "WordPiece") {
    model->kind = Kind::kWordPiece;
    model->unk_token = fields.String("unk_token");
    model->continuing_subword_prefix = fields.String("continuing_subword_prefix", "##");
    model->max_input_chars_per_word = static_cast<uint32_t>(
        fields.Integer("max_input_chars_per_word", 0, std::numeric_limits<uint32_t>::max(), 100));
  } else if (type == "WordLevel") {
    model->kind = Kind::kWordLevel;
    model->unk_token = fields.String("unk_token");
  } else if (type == "Unigram") {
    model->kind = Kind::kUnigram;
    if (fields.Find("unk_id") != nullptr) {
      model->unk_id = static_cast<int32_t>(fields.Integer("unk_id", 0, kMaxId));
    }
    model->byte_fallback = fields.Bool("byte_fallback", false);
  } else {
    fields.Unimplemented("type", absl::StrCat("model ", Quoted(type), " is not supported"));
  }
  if (!document.has_vocabulary) fields.Invalid("vocab", "missing, or not a table of tokens");
  if (document.vocabulary_is_list != (type == "Unigram")) {
    fields.Invalid("vocab", type == "Unigram" ? "expected an array of [token, score]"
                                              : "expected an object of ids by token");
  }
  if (fields.Find("merges") != nullptr) fields.Invalid("merges", "expected an array");
  model->vocabulary = std::move(document.vocabulary);
  model->merges = std::move(document.merges);
  return status;
}

absl::Status ParseAddedTokens(const json& list, std::vector<AddedTokenSpec>* tokens) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array() || list.size() > kMaxAddedTokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tokenizer.json: added_tokens: expected an array of at most ", kMaxAddedTokens));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    absl::Status status;
    JsonFields fields(list[i], absl::StrCat("tokenizer.json: added_tokens[", i, "]"), &status);
    AddedTokenSpec token;
    token.content = fields.String("content");
    token.id = static_cast<int32_t>(fields.Integer("id", 0, kMaxId));
    token.special = fields.Bool("special", false);
    token.single_word = fields.Bool("single_word", false);
    token.lstrip = fields.Bool("lstrip", false);
    token.rstrip = fields.Bool("rstrip", false);
    token.normalized = fields.Bool("normalized", !token.special);
    RETURN_IF_ERROR(status);
    tokens->push_back(std::move(token));
  }
  return absl::OkStatus();
}

// A length that is carried, never allocated.
uint32_t Length(JsonFields& fields, const char* name, std::optional<int64_t> fallback) {
  constexpr int64_t kLimit = 1 << 30;
  const int64_t value = fields.Integer(name, 0, std::numeric_limits<int64_t>::max(), fallback);
  if (value > kLimit) fields.TooLarge(name, absl::StrCat(value, ", the limit is ", kLimit));
  return static_cast<uint32_t>(std::min(value, kLimit));
}

absl::Status ParseTruncation(const json& value, std::optional<TruncationSpec>* out) {
  if (value.is_null()) return absl::OkStatus();
  absl::Status status;
  JsonFields fields(value, "tokenizer.json: truncation", &status);
  TruncationSpec spec;
  spec.max_length = Length(fields, "max_length", std::nullopt);
  spec.stride = Length(fields, "stride", 0);
  spec.strategy = fields.String("strategy", "LongestFirst");
  spec.direction = fields.String("direction", "Right");
  *out = std::move(spec);
  return status;
}

absl::Status ParsePadding(const json& value, std::optional<PaddingSpec>* out) {
  if (value.is_null()) return absl::OkStatus();
  absl::Status status;
  JsonFields fields(value, "tokenizer.json: padding", &status);
  PaddingSpec spec;
  const json* strategy = fields.Find("strategy");
  if (strategy != nullptr && strategy->is_object()) {
    JsonFields fixed(*strategy, "tokenizer.json: padding.strategy", &status);
    spec.fixed_length = Length(fixed, "Fixed", std::nullopt);
  } else if (fields.String("strategy", "BatchLongest") != "BatchLongest") {
    fields.Invalid("strategy", "expected \"BatchLongest\" or {\"Fixed\": length}");
  }
  spec.pad_to_multiple_of = Length(fields, "pad_to_multiple_of", 0);
  spec.direction = fields.String("direction", "Right");
  spec.pad_id = static_cast<int32_t>(fields.Integer("pad_id", 0, kMaxId, 0));
  spec.pad_type_id = static_cast<int32_t>(fields.Integer("pad_type_id", 0, kMaxId, 0));
  spec.pad_token = fields.String("pad_token", "[PAD]");
  *out = std::move(spec);
  return status;
}

absl::Status Bad(absl::string_view where, absl::string_view reason) {
  return absl::InvalidArgumentError(absl::StrCat("tokenizer: ", where, ": ", reason));
}

// Everything that can be looked up while validating.
struct TokenIndex {
  absl::flat_hash_map<absl::string_view, int32_t> vocabulary;
  absl::flat_hash_map<absl::string_view, int32_t> added;
  absl::flat_hash_set<int32_t> ids;

  bool Has(absl::string_view token) const {
    return vocabulary.contains(token) || added.contains(token);
  }
};

absl::Status IndexVocabulary(const TokenizerSpec& spec, TokenIndex* index) {
  const auto& entries = spec.model.vocabulary;
  index->vocabulary.reserve(entries.size());
  index->ids.reserve(entries.size() + spec.added_tokens.size());
  const size_t total = entries.size() + spec.added_tokens.size();
  const int64_t limit = static_cast<int64_t>(2 * total + 65536);
  for (const VocabularyEntry& entry : entries) {
    if (entry.token.size() > kMaxTokenBytes) {
      return Bad("vocab", absl::StrCat("token of ", entry.token.size(), " bytes, the limit is ",
                                       kMaxTokenBytes));
    }
    if (entry.id < 0 || entry.id >= limit) {
      return Bad("vocab", absl::StrCat("id ", entry.id, " of ", Quoted(entry.token),
                                       " is far past the ", total, " tokens there are"));
    }
    // Unigram lists may repeat a piece: the last one counts. Ids are positions there.
    const bool fresh = index->vocabulary.insert_or_assign(entry.token, entry.id).second;
    if (!fresh && spec.model.kind != Kind::kUnigram) {
      return Bad("vocab", absl::StrCat("token ", Quoted(entry.token), " appears twice"));
    }
    if (!index->ids.insert(entry.id).second) {
      return Bad("vocab", absl::StrCat("id ", entry.id, " is given twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status IndexAddedTokens(const TokenizerSpec& spec, TokenIndex* index) {
  const size_t total = spec.model.vocabulary.size() + spec.added_tokens.size();
  const int64_t limit = static_cast<int64_t>(2 * total + 65536);
  for (size_t i = 0; i < spec.added_tokens.size(); ++i) {
    const AddedTokenSpec& token = spec.added_tokens[i];
    const std::string where = absl::StrCat("added_tokens[", i, "]");
    if (token.content.empty() || token.content.size() > kMaxTokenBytes) {
      return Bad(where, absl::StrCat("content of ", token.content.size(), " bytes; expected 1 to ",
                                     kMaxTokenBytes));
    }
    if (token.id < 0 || token.id >= limit) {
      return Bad(where, absl::StrCat("id ", token.id, " is far past the ", total, " tokens"));
    }
    if (!index->added.emplace(token.content, token.id).second) {
      return Bad(where, absl::StrCat(Quoted(token.content), " is added twice"));
    }
    const auto known = index->vocabulary.find(token.content);
    const bool same = known != index->vocabulary.end() && known->second == token.id;
    if (known != index->vocabulary.end() && !same) {
      return Bad(where, absl::StrCat("id ", token.id, " of ", Quoted(token.content),
                                     " differs from the vocabulary's ", known->second));
    }
    if (!same && !index->ids.insert(token.id).second) {
      return Bad(where, absl::StrCat("id ", token.id, " of ", Quoted(token.content),
                                     " belongs to another token"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateMerges(const TokenizationModelSpec& model, const TokenIndex& index) {
  const size_t prefix = model.continuing_subword_prefix.size();
  std::string merged;
  for (size_t i = 0; i < model.merges.size(); ++i) {
    const auto& [left, right] = model.merges[i];
    merged.assign(left);
    if (right.size() >= prefix) merged.append(right, prefix);
    for (absl::string_view part :
         {absl::string_view(left), absl::string_view(right), absl::string_view(merged)}) {
      if (!index.vocabulary.contains(part)) {
        return Bad(absl::StrCat("merges[", i, "]"),
                   absl::StrCat(Quoted(part), " is not in the vocabulary"));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status ValidatePostProcessor(const TokenizerSpec& spec, const TokenIndex& index) {
  const auto check = [&](int32_t id, absl::string_view token) -> absl::Status {
    if (index.ids.contains(id)) return absl::OkStatus();
    return Bad("post_processor",
               absl::StrCat("id ", id, " of ", Quoted(token), " is not in the vocabulary"));
  };
  for (const PostProcessorStep& step : spec.post_processor) {
    for (const auto* pieces : {&step.single, &step.pair}) {
      for (const TemplatePiece& piece : *pieces) {
        for (const int32_t id : piece.ids) RETURN_IF_ERROR(check(id, piece.token));
      }
    }
    if (step.kind == PostProcessorStep::Kind::kBert ||
        step.kind == PostProcessorStep::Kind::kRoberta) {
      RETURN_IF_ERROR(check(step.cls.second, step.cls.first));
      RETURN_IF_ERROR(check(step.sep.second, step.sep.first));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateTokenizerSpec(const TokenizerSpec& spec) {
  TokenIndex index;
  RETURN_IF_ERROR(IndexVocabulary(spec, &index));
  RETURN_IF_ERROR(IndexAddedTokens(spec, &index));
  if (index.ids.empty()) return Bad("vocab", "no token at all");
  RETURN_IF_ERROR(ValidateMerges(spec.model, index));
  if (spec.model.unk_token && !index.Has(*spec.model.unk_token)) {
    return Bad("unk_token",
               absl::StrCat(Quoted(*spec.model.unk_token), " is not in the vocabulary"));
  }
  if (spec.model.unk_id &&
      *spec.model.unk_id >= static_cast<int64_t>(spec.model.vocabulary.size())) {
    return Bad("unk_id", absl::StrCat(*spec.model.unk_id, " is past the vocabulary of ",
                                      spec.model.vocabulary.size()));
  }
  RETURN_IF_ERROR(ValidatePostProcessor(spec, index));
  const std::pair<const char*, std::optional<int32_t>> specials[] = {
      {"bos", spec.bos_id}, {"eos", spec.eos_id}, {"pad", spec.pad_id}, {"unk", spec.unk_id}};
  for (const auto& [name, id] : specials) {
    if (id && !index.ids.contains(*id)) {
      return Bad(absl::StrCat(name, " id"), absl::StrCat(*id, " is not in the vocabulary"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view text) {
  ASSIGN_OR_RETURN(TokenizerJsonDocument document,
                   ReadTokenizerDocument(text, "tokenizer.json", true));
  TokenizerSpec spec;
  const json root = std::move(document.root);
  RETURN_IF_ERROR(ParseAddedTokens(FieldOrNull(root, "added_tokens"), &spec.added_tokens));
  RETURN_IF_ERROR(ParseNormalizer(FieldOrNull(root, "normalizer"), &spec.normalizer));
  RETURN_IF_ERROR(ParsePreTokenizer(FieldOrNull(root, "pre_tokenizer"), &spec.pre_tokenizer));
  RETURN_IF_ERROR(ParsePostProcessor(FieldOrNull(root, "post_processor"), &spec.post_processor));
  RETURN_IF_ERROR(ParseDecoder(FieldOrNull(root, "decoder"), &spec.decoder));
  RETURN_IF_ERROR(ParseTruncation(FieldOrNull(root, "truncation"), &spec.truncation));
  RETURN_IF_ERROR(ParsePadding(FieldOrNull(root, "padding"), &spec.padding));
  document.root = json::object({{"model", FieldOrNull(root, "model")}});
  RETURN_IF_ERROR(ParseModel(std::move(document), &spec.model));
  RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  return spec;
}

}  // namespace quantd

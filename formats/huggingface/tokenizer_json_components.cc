#include "formats/huggingface/tokenizer_json_components.h"

#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "formats/huggingface/json_fields.h"
#include "formats/huggingface/tokenizer_json_document.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxTemplatePieces = 64;
constexpr size_t kMaxComponentText = 4096;
constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

// Walks `component` and, for a Sequence, its elements under `list_name`, calling
// parse_one(fields, type, steps). Nesting is bounded by the depth limit of the document.
template <typename Step, typename ParseOne>
absl::Status ParseSteps(const json& component, const std::string& path, const char* list_name,
                        ParseOne parse_one, std::vector<Step>* steps) {
  if (component.is_null()) return absl::OkStatus();
  absl::Status status;
  JsonFields fields(component, path, &status);
  const std::string type = fields.String("type");
  RETURN_IF_ERROR(status);
  if (type != "Sequence") {
    if (steps->size() >= kMaxSteps) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": more than ", kMaxSteps, " components in sequence"));
    }
    steps->emplace_back();
    parse_one(fields, type, &steps->back());
    return status;
  }
  const json* list = fields.Array(list_name);
  RETURN_IF_ERROR(status);
  for (const json& element : *list) {
    RETURN_IF_ERROR(ParseSteps(element, path, list_name, parse_one, steps));
  }
  return absl::OkStatus();
}

std::string Text(JsonFields& fields, const char* name) {
  std::string text = fields.String(name);
  if (text.size() > kMaxComponentText) {
    fields.TooLarge(name, absl::StrCat(text.size(), " bytes, the limit is ", kMaxComponentText));
  }
  return text;
}

// A string of exactly one character.
std::string OneCharacter(JsonFields& fields, const char* name,
                         std::optional<std::string> fallback) {
  std::string text = fields.String(name, std::move(fallback));
  size_t characters = 0;
  for (const char c : text) characters += (static_cast<uint8_t>(c) & 0xC0) != 0x80;
  if (fields.ok() && characters != 1) fields.Invalid(name, "expected one character");
  return text;
}

TextPattern Pattern(JsonFields& fields) {
  TextPattern pattern;
  const json* value = fields.Object("pattern");
  if (value == nullptr) return pattern;
  if (value->size() != 1 || !(value->contains("String") || value->contains("Regex")) ||
      !value->front().is_string()) {
    fields.Invalid("pattern", "expected {\"String\": text} or {\"Regex\": text}");
    return pattern;
  }
  pattern.is_regex = value->contains("Regex");
  pattern.text = value->front().get<std::string>();
  if (pattern.text.empty() || pattern.text.size() > kMaxComponentText) {
    fields.Invalid("pattern", absl::StrCat("expected 1 to ", kMaxComponentText, " bytes, found ",
                                           pattern.text.size()));
  }
  return pattern;
}

SplitBehavior Behavior(JsonFields& fields, std::optional<std::string> fallback) {
  const std::string name = fields.String("behavior", std::move(fallback));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  fields.Invalid("behavior", absl::StrCat("unknown split behavior ", Quoted(name)));
  return SplitBehavior::kIsolated;
}

// prepend_scheme, or the add_prefix_space of files written before it existed.
PrependScheme Scheme(JsonFields& fields) {
  const bool legacy = fields.Bool("add_prefix_space", true);
  const std::string name = fields.String("prepend_scheme", legacy ? "always" : "never");
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name != "never") {
    fields.Invalid("prepend_scheme", absl::StrCat("unknown value ", Quoted(name)));
  }
  return PrependScheme::kNever;
}

void NormalizerOf(JsonFields& fields, const std::string& type, NormalizerStep* step) {
  using Kind = NormalizerStep::Kind;
  if (type == "NFC") {
    step->kind = Kind::kNfc;
  } else if (type == "NFD") {
    step->kind = Kind::kNfd;
  } else if (type == "NFKC") {
    step->kind = Kind::kNfkc;
  } else if (type == "NFKD") {
    step->kind = Kind::kNfkd;
  } else if (type == "Lowercase") {
    step->kind = Kind::kLowercase;
  } else if (type == "StripAccents") {
    step->kind = Kind::kStripAccents;
  } else if (type == "ByteLevel") {
    step->kind = Kind::kByteLevel;
  } else if (type == "Strip") {
    step->kind = Kind::kStrip;
    step->strip_left = fields.Bool("strip_left", true);
    step->strip_right = fields.Bool("strip_right", true);
  } else if (type == "Replace") {
    step->kind = Kind::kReplace;
    step->pattern = Pattern(fields);
    step->content = Text(fields, "content");
  } else if (type == "Prepend") {
    step->kind = Kind::kPrepend;
    step->content = Text(fields, "prepend");
  } else if (type == "BertNormalizer") {
    step->kind = Kind::kBert;
    step->clean_text = fields.Bool("clean_text", true);
    step->handle_chinese_chars = fields.Bool("handle_chinese_chars", true);
    step->lowercase = fields.Bool("lowercase", true);
    if (fields.Find("strip_accents") != nullptr) step->strip_accents = fields.Bool("strip_accents");
  } else {
    fields.Unimplemented("type", absl::StrCat("normalizer ", Quoted(type), " is not supported"));
  }
}

void PreTokenizerOf(JsonFields& fields, const std::string& type, PreTokenizerStep* step) {
  using Kind = PreTokenizerStep::Kind;
  if (type == "ByteLevel") {
    step->kind = Kind::kByteLevel;
    step->add_prefix_space = fields.Bool("add_prefix_space");
    step->trim_offsets = fields.Bool("trim_offsets", true);
    step->use_regex = fields.Bool("use_regex", true);
  } else if (type == "Split") {
    step->kind = Kind::kSplit;
    step->pattern = Pattern(fields);
    step->behavior = Behavior(fields, std::nullopt);
    step->invert = fields.Bool("invert", false);
  } else if (type == "Digits") {
    step->kind = Kind::kDigits;
    step->individual_digits = fields.Bool("individual_digits", false);
  } else if (type == "Punctuation") {
    step->kind = Kind::kPunctuation;
    step->behavior = Behavior(fields, "Isolated");
  } else if (type == "Whitespace") {
    step->kind = Kind::kWhitespace;
  } else if (type == "WhitespaceSplit") {
    step->kind = Kind::kWhitespaceSplit;
  } else if (type == "BertPreTokenizer") {
    step->kind = Kind::kBert;
  } else if (type == "Metaspace") {
    step->kind = Kind::kMetaspace;
    step->replacement = OneCharacter(fields, "replacement", std::nullopt);
    step->prepend_scheme = Scheme(fields);
    step->split = fields.Bool("split", true);
  } else if (type == "CharDelimiterSplit") {
    step->kind = Kind::kCharDelimiterSplit;
    step->replacement = OneCharacter(fields, "delimiter", std::nullopt);
  } else {
    fields.Unimplemented("type", absl::StrCat("pre-tokenizer ", Quoted(type), " is not supported"));
  }
}

std::pair<std::string, int32_t> TokenAndId(JsonFields& fields, const char* name) {
  const json* value = fields.Array(name);
  if (value == nullptr) return {};
  if (value->size() != 2 || !(*value)[0].is_string() || !(*value)[1].is_number_unsigned() ||
      (*value)[1].get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
    fields.Invalid(name, "expected [token, id]");
    return {};
  }
  return {(*value)[0].get<std::string>(), (*value)[1].get<int32_t>()};
}

// The ids that special_tokens gives to `token`.
std::vector<int32_t> SpecialTokenIds(JsonFields& fields, const json& table,
                                     const std::string& token) {
  std::vector<int32_t> ids;
  const auto it = table.find(token);
  const bool listed = it != table.end() && it->is_object() && it->contains("ids") &&
                      (*it)["ids"].is_array() && (*it)["ids"].size() <= kMaxTemplatePieces;
  if (!listed) {
    fields.Invalid("special_tokens", absl::StrCat("no list of ids for ", Quoted(token)));
    return ids;
  }
  for (const json& id : (*it)["ids"]) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > static_cast<uint64_t>(kMaxId)) {
      fields.Invalid("special_tokens", absl::StrCat("bad id for ", Quoted(token)));
      return ids;
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

std::vector<TemplatePiece> Template(JsonFields& fields, const char* name, const json& table) {
  std::vector<TemplatePiece> pieces;
  const json* list = fields.Array(name);
  if (list == nullptr) return pieces;
  if (list->size() > kMaxTemplatePieces) fields.Invalid(name, "too many pieces");
  for (const json& element : *list) {
    if (!fields.ok()) break;
    if (!element.is_object() || element.size() != 1) {
      fields.Invalid(name, "expected {\"SpecialToken\": ...} or {\"Sequence\": ...}");
      break;
    }
    const bool special = element.contains("SpecialToken");
    if (!special && !element.contains("Sequence")) {
      fields.Invalid(name, "expected SpecialToken or Sequence");
      break;
    }
    absl::Status status;
    JsonFields piece_fields(element.front(), absl::StrCat(fields.path(), ".", name), &status);
    TemplatePiece piece;
    piece.token = piece_fields.String("id");
    piece.type_id = static_cast<int32_t>(piece_fields.Integer("type_id", 0, kMaxId, 0));
    if (!status.ok()) {
      fields.Invalid(name, status.message());
    } else if (special) {
      piece.ids = SpecialTokenIds(fields, table, piece.token);
    } else if (piece.token == "A" || piece.token == "B") {
      piece.kind =
          piece.token == "A" ? TemplatePiece::Kind::kSequenceA : TemplatePiece::Kind::kSequenceB;
    } else {
      fields.Invalid(name, absl::StrCat("unknown sequence ", Quoted(piece.token)));
    }
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

void TemplateOf(JsonFields& fields, PostProcessorStep* step) {
  step->kind = PostProcessorStep::Kind::kTemplate;
  const json* table = fields.Find("special_tokens");
  static const json* const kNone = new json(json::object());
  if (table == nullptr) table = kNone;
  if (!table->is_object()) return fields.Invalid("special_tokens", "expected an object");
  step->single = Template(fields, "single", *table);
  step->pair = Template(fields, "pair", *table);
  size_t texts = 0;
  for (const TemplatePiece& piece : step->single) {
    texts += piece.kind == TemplatePiece::Kind::kSequenceA;
    if (piece.kind == TemplatePiece::Kind::kSequenceB) {
      fields.Invalid("single", "uses sequence B, which a single text has not");
    }
  }
  if (fields.ok() && texts != 1) {
    fields.Invalid("single", absl::StrCat("expected sequence A once, found it ", texts, " times"));
  }
}

void PostProcessorOf(JsonFields& fields, const std::string& type, PostProcessorStep* step) {
  using Kind = PostProcessorStep::Kind;
  if (type == "TemplateProcessing") {
    TemplateOf(fields, step);
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    step->kind = type == "BertProcessing" ? Kind::kBert : Kind::kRoberta;
    step->sep = TokenAndId(fields, "sep");
    step->cls = TokenAndId(fields, "cls");
    step->trim_offsets = fields.Bool("trim_offsets", true);
    step->add_prefix_space = fields.Bool("add_prefix_space", true);
  } else if (type == "ByteLevel") {
    step->kind = Kind::kByteLevel;
    step->add_prefix_space = fields.Bool("add_prefix_space", true);
    step->trim_offsets = fields.Bool("trim_offsets", true);
    step->use_regex = fields.Bool("use_regex", true);
  } else {
    fields.Unimplemented("type",
                         absl::StrCat("post-processor ", Quoted(type), " is not supported"));
  }
}

void DecoderOf(JsonFields& fields, const std::string& type, DecoderStep* step) {
  using Kind = DecoderStep::Kind;
  if (type == "ByteLevel") {
    step->kind = Kind::kByteLevel;
  } else if (type == "WordPiece") {
    step->kind = Kind::kWordPiece;
    step->prefix = Text(fields, "prefix");
    step->cleanup = fields.Bool("cleanup");
  } else if (type == "Metaspace") {
    step->kind = Kind::kMetaspace;
    step->replacement = OneCharacter(fields, "replacement", std::nullopt);
    step->prepend_scheme = Scheme(fields);
    step->split = fields.Bool("split", true);
  } else if (type == "ByteFallback") {
    step->kind = Kind::kByteFallback;
  } else if (type == "Fuse") {
    step->kind = Kind::kFuse;
  } else if (type == "Strip") {
    step->kind = Kind::kStrip;
    step->content = OneCharacter(fields, "content", std::nullopt);
    step->start = static_cast<uint32_t>(fields.Integer("start", 0, 1024));
    step->stop = static_cast<uint32_t>(fields.Integer("stop", 0, 1024));
  } else if (type == "Replace") {
    step->kind = Kind::kReplace;
    step->pattern = Pattern(fields);
    step->content = Text(fields, "content");
  } else {
    fields.Unimplemented("type", absl::StrCat("decoder ", Quoted(type), " is not supported"));
  }
}

}  // namespace

absl::Status ParseNormalizer(const json& component, std::vector<NormalizerStep>* steps) {
  return ParseSteps(component, "tokenizer.json: normalizer", "normalizers", NormalizerOf, steps);
}

absl::Status ParsePreTokenizer(const json& component, std::vector<PreTokenizerStep>* steps) {
  return ParseSteps(component, "tokenizer.json: pre_tokenizer", "pretokenizers", PreTokenizerOf,
                    steps);
}

absl::Status ParsePostProcessor(const json& component, std::vector<PostProcessorStep>* steps) {
  return ParseSteps(component, "tokenizer.json: post_processor", "processors", PostProcessorOf,
                    steps);
}

absl::Status ParseDecoder(const json& component, std::vector<DecoderStep>* steps) {
  return ParseSteps(component, "tokenizer.json: decoder", "decoders", DecoderOf, steps);
}

}  // namespace quantd

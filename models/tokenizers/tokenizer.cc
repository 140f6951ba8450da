#include "models/tokenizers/tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "formats/huggingface/tokenizer_json.h"
#include "models/tokenizers/added_tokens.h"
#include "models/tokenizers/decoder.h"
#include "models/tokenizers/normalizer.h"
#include "models/tokenizers/post_processor.h"
#include "models/tokenizers/pre_tokenizer.h"
#include "models/tokenizers/segmentation.h"
#include "models/tokenizers/unicode.h"
#include "models/tokenizers/vocabulary.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

struct Tokenizer::Parts {
  explicit Parts(const TokenizerSpec& spec)
      : vocabulary(spec.model.vocabulary), post_processor(spec.post_processor) {}

  Vocabulary vocabulary;
  absl::flat_hash_map<int32_t, AddedTokenSpec> added_by_id;
  absl::flat_hash_map<std::string, int32_t> added_by_content;
  int32_t end_id = 0;
  AddedTokens added_tokens;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  std::unique_ptr<const Segmentation> segmentation;
  PostProcessor post_processor;
  Decoder decoder;
  std::optional<int32_t> bos_id, eos_id, pad_id, unk_id;
  std::vector<int32_t> front, back;  // ids around a text
  std::string chat_template;

  absl::Status EncodePlain(absl::string_view text, bool at_start, bool parse_special,
                           WorkBudget* budget, std::vector<int32_t>* ids) const;
  void TrimStart(size_t* trimmed, std::string* text) const;
};

namespace {

std::unique_ptr<const Segmentation> MakeSegmentation(const TokenizationModelSpec& spec,
                                                     const Vocabulary& vocabulary) {
  switch (spec.kind) {
    case TokenizationModelSpec::Kind::kBpe:
      return MakeBpe(spec, vocabulary);
    case TokenizationModelSpec::Kind::kWordPiece:
      return MakeWordPiece(spec, vocabulary);
    case TokenizationModelSpec::Kind::kWordLevel:
      return MakeWordLevel(spec, vocabulary);
    case TokenizationModelSpec::Kind::kUnigram:
      break;
  }
  return MakeUnigram(spec, vocabulary);
}

// Bytes at the end of `text` that may be the beginning of a character.
size_t IncompleteTail(absl::string_view text) {
  const size_t longest = std::min<size_t>(3, text.size());
  for (size_t length = 1; length <= longest; ++length) {
    const uint8_t byte = static_cast<uint8_t>(text[text.size() - length]);
    if (byte < 0x80) return 0;
    if (byte < 0xC0) continue;
    const size_t needed = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : byte < 0xF5 ? 4 : 1;
    return needed > length ? length : 0;
  }
  return 0;
}

}  // namespace

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::shared_ptr<const Tokenizer>> Tokenizer::Create(const TokenizerSpec& spec,
                                                                   int64_t embedding_rows) {
  RETURN_IF_ERROR(ValidateTokenizerSpec(spec));
  auto parts = std::make_unique<Parts>(spec);
  parts->end_id = parts->vocabulary.end_id();
  for (const AddedTokenSpec& token : spec.added_tokens) {
    parts->end_id = std::max(parts->end_id, token.id + 1);
    parts->added_by_id.emplace(token.id, token);
    parts->added_by_content.emplace(token.content, token.id);
  }
  if (embedding_rows > 0 && parts->end_id > embedding_rows) {
    return absl::InvalidArgumentError(absl::StrCat("tokenizer: id ", parts->end_id - 1,
                                                   " is past the ", embedding_rows,
                                                   " rows of the embedding"));
  }
  ASSIGN_OR_RETURN(parts->normalizer, Normalizer::Create(spec.normalizer));
  ASSIGN_OR_RETURN(parts->added_tokens, AddedTokens::Create(spec.added_tokens, parts->normalizer));
  ASSIGN_OR_RETURN(parts->pre_tokenizer, PreTokenizer::Create(spec.pre_tokenizer));
  ASSIGN_OR_RETURN(parts->decoder, Decoder::Create(spec.decoder));
  parts->segmentation = MakeSegmentation(spec.model, parts->vocabulary);
  parts->front = parts->post_processor.front();
  parts->back = parts->post_processor.back();
  parts->bos_id = spec.bos_id;
  parts->eos_id = spec.eos_id;
  parts->pad_id = spec.pad_id;
  parts->unk_id = spec.unk_id;
  parts->chat_template = spec.chat_template;
  return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(absl::string_view text,
                                                       const EncodeOptions& options) const {
  if (text.size() > kMaxTextBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("text of ", text.size(), " bytes, the limit is ", kMaxTextBytes));
  }
  if (const size_t valid = ValidUtf8Prefix(text); valid != text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("text is not valid UTF-8 from byte ", valid, " on"));
  }
  WorkBudget budget(text.size());
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids = parts_->front;
  ASSIGN_OR_RETURN(
      const std::vector<AddedTokens::Section> sections,
      parts_->added_tokens.Split(text, /*normalized=*/false, options.parse_special, &budget));
  for (const AddedTokens::Section& section : sections) {
    if (section.id >= 0) {
      ids.push_back(section.id);
      continue;
    }
    RETURN_IF_ERROR(parts_->EncodePlain(section.text, section.text.data() == text.data(),
                                        options.parse_special, &budget, &ids));
  }
  if (options.add_special_tokens) {
    ids.insert(ids.end(), parts_->back.begin(), parts_->back.end());
  }
  return ids;
}

absl::Status Tokenizer::Parts::EncodePlain(absl::string_view text, bool at_start,
                                           bool parse_special, WorkBudget* budget,
                                           std::vector<int32_t>* ids) const {
  std::string normalized;
  if (!normalizer.empty()) {
    ASSIGN_OR_RETURN(normalized, normalizer.Apply(text, budget));
    text = normalized;
  }
  ASSIGN_OR_RETURN(const std::vector<AddedTokens::Section> sections,
                   added_tokens.Split(text, /*normalized=*/true, parse_special, budget));
  WordList list;
  for (const AddedTokens::Section& section : sections) {
    if (section.id >= 0) {
      ids->push_back(section.id);
      continue;
    }
    list.words.assign(1, {section.text, at_start && section.text.data() == text.data()});
    list.storage.clear();
    RETURN_IF_ERROR(pre_tokenizer.Apply(&list, budget));
    for (const WordList::Word& word : list.words) {
      RETURN_IF_ERROR(budget->Spend());
      RETURN_IF_ERROR(segmentation->Segment(word.text, budget, ids));
    }
  }
  return absl::OkStatus();
}

// Takes characters off the front of a text that begins here, `*trimmed` of them gone already.
void Tokenizer::Parts::TrimStart(size_t* trimmed, std::string* text) const {
  const std::string& content = decoder.trim_content();
  while (!content.empty() && *trimmed < decoder.trim_start() && absl::StartsWith(*text, content)) {
    text->erase(0, content.size());
    ++*trimmed;
  }
}

absl::StatusOr<std::string> Tokenizer::Decode(absl::Span<const int32_t> ids,
                                              bool skip_special) const {
  StreamingDecoder stream(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    if (!IdToToken(id)) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", id, " is not in the vocabulary of ", vocabulary_size()));
    }
    text += stream.Push(id);
  }
  text += stream.Flush();
  return text;
}

int32_t Tokenizer::vocabulary_size() const { return parts_->end_id; }
std::optional<int32_t> Tokenizer::bos_id() const { return parts_->bos_id; }
std::optional<int32_t> Tokenizer::eos_id() const { return parts_->eos_id; }
std::optional<int32_t> Tokenizer::pad_id() const { return parts_->pad_id; }
std::optional<int32_t> Tokenizer::unk_id() const { return parts_->unk_id; }
const std::string& Tokenizer::chat_template() const { return parts_->chat_template; }

std::optional<int32_t> Tokenizer::TokenToId(absl::string_view token) const {
  const auto added = parts_->added_by_content.find(token);
  if (added != parts_->added_by_content.end()) return added->second;
  const int32_t id = parts_->vocabulary.Find(token);
  return id < 0 ? std::nullopt : std::optional<int32_t>(id);
}

std::optional<absl::string_view> Tokenizer::IdToToken(int32_t id) const {
  const auto added = parts_->added_by_id.find(id);
  if (added != parts_->added_by_id.end()) return added->second.content;
  if (!parts_->vocabulary.Has(id)) return std::nullopt;
  return parts_->vocabulary.Token(id);
}

std::string Tokenizer::TokenBytes(int32_t id, bool first) const {
  const auto token = IdToToken(id);
  return token ? parts_->decoder.TokenBytes(*token, first) : std::string();
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const auto added = parts_->added_by_id.find(id);
  return added != parts_->added_by_id.end() && added->second.special;
}

std::string StreamingDecoder::Push(int32_t id) {
  if (!tokenizer_.IdToToken(id) || (skip_special_ && tokenizer_.IsSpecial(id))) return "";
  waiting_ += tokenizer_.TokenBytes(id, first_);
  first_ = false;
  return Release(/*all=*/false);
}

std::string StreamingDecoder::Flush() { return Release(/*all=*/true); }

std::string StreamingDecoder::Release(bool all) {
  const Decoder& decoder = tokenizer_.parts_->decoder;
  if (trimmed_ < decoder.trim_start()) {
    tokenizer_.parts_->TrimStart(&trimmed_, &waiting_);
    if (!waiting_.empty()) trimmed_ = decoder.trim_start();
  }
  const size_t keep = all ? 0 : IncompleteTail(waiting_);
  std::string out = waiting_.substr(0, waiting_.size() - keep);
  waiting_.erase(0, waiting_.size() - keep);
  return out;
}

}  // namespace quantd

#include "formats/huggingface/tokenizer_json_document.h"

#include <cstring>
#include <limits>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr size_t kMaxFileBytes = size_t{128} << 20;
constexpr size_t kMaxDepth = 64;
// Values outside the two tables; a Llama-3 file has some 2500.
constexpr size_t kMaxTreeValues = 1 << 20;

// Builds the document from parser events. Stops at the first violation, kept in status().
class DocumentHandler : public nlohmann::json_sax<json> {
 public:
  DocumentHandler(TokenizerJsonDocument* document, absl::string_view what, bool tables)
      : document_(document), what_(what), tables_(tables) {}

  const absl::Status& status() const { return status_; }

  bool null() override { return table_ == Table::kNone ? Add(nullptr) : BadTableValue("null"); }
  bool boolean(bool value) override {
    return table_ == Table::kNone ? Add(value) : BadTableValue("a boolean");
  }
  bool number_integer(int64_t value) override {
    if (table_ == Table::kNone) return Add(value);
    return TableNumber(static_cast<double>(value), true, value);
  }
  bool number_unsigned(uint64_t value) override {
    if (table_ == Table::kNone) return Add(value);
    const bool fits = value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    return TableNumber(static_cast<double>(value), fits, static_cast<int64_t>(value));
  }
  bool number_float(double value, const std::string&) override {
    return table_ == Table::kNone ? Add(value) : TableNumber(value, false, 0);
  }
  bool string(std::string& value) override {
    return table_ == Table::kNone ? Add(std::move(value)) : TableString(value);
  }
  bool binary(json::binary_t&) override { return Fail("binary value"); }

  bool start_object(size_t) override { return Open(json::object()); }
  bool start_array(size_t) override { return Open(json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& name) override;
  bool parse_error(size_t position, const std::string&, const json::exception&) override {
    return Fail(absl::StrCat("not valid JSON near byte ", position));
  }

 private:
  enum class Table { kNone, kVocabularyObject, kVocabularyList, kMerges };
  struct Frame {
    json* node;
    absl::flat_hash_set<std::string> keys;
  };

  bool Fail(absl::string_view reason) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": ", reason));
    return false;
  }
  bool BadTableValue(absl::string_view found) {
    return Fail(absl::StrCat(TableName(), ": entry ", TableEntry(), " holds ", found));
  }
  absl::string_view TableName() const {
    return table_ == Table::kMerges ? "model.merges" : "model.vocab";
  }
  size_t TableEntry() const {
    return table_ == Table::kMerges ? document_->merges.size() : document_->vocabulary.size();
  }

  bool Open(json empty);
  bool OpenTable(bool object);
  bool OpenInTable(bool object);
  bool Close();
  bool Add(json value, json** added = nullptr);
  bool TableString(std::string& value);
  bool TableNumber(double value, bool integral, int64_t integer);

  TokenizerJsonDocument* document_;
  absl::string_view what_;
  bool tables_;
  absl::Status status_;
  std::vector<Frame> frames_;
  std::string key_;
  size_t values_ = 0;
  Table table_ = Table::kNone;
  bool in_entry_ = false;  // inside an inner array of a table
  std::vector<std::string> entry_strings_;
  size_t entry_numbers_ = 0;
  double entry_score_ = 0;
};

bool DocumentHandler::key(std::string& name) {
  if (table_ != Table::kNone) {
    key_ = std::move(name);
    return true;
  }
  if (!frames_.back().keys.insert(name).second) {
    return Fail(absl::StrCat("key ", Quoted(name), " appears twice in one object"));
  }
  key_ = std::move(name);
  return true;
}

bool DocumentHandler::Add(json value, json** added) {
  if (++values_ > kMaxTreeValues) return Fail("too many values outside vocab and merges");
  if (frames_.empty()) {
    document_->root = std::move(value);
    if (added != nullptr) *added = &document_->root;
    return true;
  }
  json& parent = *frames_.back().node;
  json& slot = parent.is_object() ? parent[key_] : parent.emplace_back();
  slot = std::move(value);
  if (added != nullptr) *added = &slot;
  return true;
}

bool DocumentHandler::Open(json empty) {
  const bool object = empty.is_object();
  if (table_ != Table::kNone) return OpenInTable(object);
  if (frames_.empty() && !object) return Fail("the root is not an object");
  if (frames_.size() >= kMaxDepth) {
    return Fail(absl::StrCat("nested deeper than ", kMaxDepth, " levels"));
  }
  const bool in_model = tables_ && frames_.size() == 2 && frames_[0].node == &document_->root &&
                        document_->root.contains("model") &&
                        frames_[1].node == &document_->root["model"];
  if (in_model && (key_ == "vocab" || key_ == "merges")) return OpenTable(object);
  json* node = nullptr;
  if (!Add(std::move(empty), &node)) return false;
  frames_.push_back({node, {}});
  return true;
}

bool DocumentHandler::OpenTable(bool object) {
  if (key_ == "merges") {
    if (object) return Fail("model.merges: expected an array, found an object");
    table_ = Table::kMerges;
    return true;
  }
  document_->has_vocabulary = true;
  document_->vocabulary_is_list = !object;
  table_ = object ? Table::kVocabularyObject : Table::kVocabularyList;
  return true;
}

bool DocumentHandler::OpenInTable(bool object) {
  if (object || in_entry_ || table_ == Table::kVocabularyObject) {
    return BadTableValue(object ? "an object" : "an array");
  }
  in_entry_ = true;
  entry_strings_.clear();
  entry_numbers_ = 0;
  return true;
}

bool DocumentHandler::Close() {
  if (table_ == Table::kNone) {
    frames_.pop_back();
    return true;
  }
  if (!in_entry_) {
    table_ = Table::kNone;
    return true;
  }
  in_entry_ = false;
  if (table_ == Table::kMerges) {
    if (entry_strings_.size() != 2 || entry_numbers_ != 0) {
      return BadTableValue("something else than two strings");
    }
    document_->merges.emplace_back(std::move(entry_strings_[0]), std::move(entry_strings_[1]));
    return true;
  }
  if (entry_strings_.size() != 1 || entry_numbers_ != 1) {
    return BadTableValue("something else than [token, score]");
  }
  const int32_t id = static_cast<int32_t>(document_->vocabulary.size());
  document_->vocabulary.push_back(
      {std::move(entry_strings_[0]), id, static_cast<float>(entry_score_)});
  return true;
}

bool DocumentHandler::TableString(std::string& value) {
  if (value.size() > 2 * kMaxTokenBytes + 1) return BadTableValue("a string that is too long");
  if (in_entry_) {
    if (entry_strings_.size() >= 2) return BadTableValue("more than two strings");
    entry_strings_.push_back(std::move(value));
    return true;
  }
  if (table_ != Table::kMerges) return BadTableValue("a string");
  const size_t space = value.find(' ');
  if (space == std::string::npos || value.find(' ', space + 1) != std::string::npos) {
    return BadTableValue("a string that is not two tokens with one space between");
  }
  document_->merges.emplace_back(value.substr(0, space), value.substr(space + 1));
  return true;
}

bool DocumentHandler::TableNumber(double value, bool integral, int64_t integer) {
  if (table_ == Table::kVocabularyObject) {
    if (!integral || integer < 0 || integer > std::numeric_limits<int32_t>::max() - 1) {
      return Fail(
          absl::StrCat("model.vocab: id of ", Quoted(key_), " is not an integer from 0 to 2^31-2"));
    }
    document_->vocabulary.push_back({std::move(key_), static_cast<int32_t>(integer), 0});
    return true;
  }
  if (table_ != Table::kVocabularyList || !in_entry_ || entry_numbers_ > 0) {
    return BadTableValue("a number");
  }
  entry_numbers_++;
  entry_score_ = value;
  return true;
}

}  // namespace

std::string Quoted(absl::string_view name) {
  const bool cut = name.size() > 200;
  return absl::StrCat("'", absl::CHexEscape(name.substr(0, 200)), cut ? "...'" : "'");
}

absl::StatusOr<TokenizerJsonDocument> ReadTokenizerDocument(absl::string_view text,
                                                            absl::string_view what, bool tables) {
  if (text.size() > kMaxFileBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(what, ": ", text.size(), " bytes, the limit is ", kMaxFileBytes));
  }
  // The lexer takes NUL for the end of input and skips a byte order mark; neither is JSON.
  if (text.empty() || std::memchr(text.data(), 0, text.size()) != nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": ", text.empty() ? "empty file" : "NUL byte in the text"));
  }
  if (static_cast<uint8_t>(text[0]) >= 0x80) {
    return absl::InvalidArgumentError(absl::StrCat(what,
                                                   ": starts with a byte order mark or "
                                                   "binary data; expected plain JSON"));
  }
  TokenizerJsonDocument document;
  DocumentHandler handler(&document, what, tables);
  if (!json::sax_parse(text.begin(), text.end(), &handler)) {
    if (!handler.status().ok()) return handler.status();
    return absl::InvalidArgumentError(absl::StrCat(what, ": not valid JSON"));
  }
  if (!document.root.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": the root is not an object"));
  }
  return document;
}

}  // namespace quantd

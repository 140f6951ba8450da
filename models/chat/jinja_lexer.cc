#include "models/chat/jinja_lexer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "core/status.h"
#include "models/tokenizers/unicode.h"

namespace quantd::jinja {
namespace {

using Kind = Token::Kind;

class Lexer {
 public:
  explicit Lexer(absl::string_view source)
      : source_(absl::StrReplaceAll(source, {{"\r\n", "\n"}, {"\r", "\n"}})) {
    if (!source_.empty() && source_.back() == '\n') source_.pop_back();
  }

  absl::StatusOr<std::vector<Token>> Run() {
    while (i_ < source_.size()) {
      const size_t tag = FindTag();
      AddText(tag);
      if (tag == source_.size()) break;
      i_ = tag;
      RETURN_IF_ERROR(Tag());
    }
    Add(Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  absl::Status Error(absl::string_view reason) const {
    return absl::InvalidArgumentError(absl::StrCat("chat template, line ", line_, ": ", reason));
  }

  void Add(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  bool At(absl::string_view text) const {
    return absl::string_view(source_).substr(i_, text.size()) == text;
  }

  void Advance(size_t to) {
    line_ += std::count(source_.begin() + i_, source_.begin() + to, '\n');
    i_ = to;
  }

  size_t FindTag() const {
    size_t at = i_;
    while ((at = source_.find('{', at)) != std::string::npos && at + 1 < source_.size()) {
      const char next = source_[at + 1];
      if (next == '{' || next == '%' || next == '#') return at;
      ++at;
    }
    return source_.size();
  }

  // The text before the tag at `tag`, trimmed as the tag and the one before it ask.
  void AddText(size_t tag) {
    size_t begin = i_, end = tag;
    if (strip_next_) {
      while (begin < end && absl::ascii_isspace(source_[begin])) ++begin;
    } else if (after_block_ && begin < end && source_[begin] == '\n') {
      ++begin;
    }
    if (tag < source_.size()) {
      const char kind = source_[tag + 1];
      const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
      if (sign == '-') {
        while (end > begin && absl::ascii_isspace(source_[end - 1])) --end;
      } else if (kind != '{' && sign != '+') {
        size_t space = end;
        while (space > begin && (source_[space - 1] == ' ' || source_[space - 1] == '\t')) --space;
        // Only when nothing else stands on the line before the tag.
        const bool starts_line = space == 0 || source_[space - 1] == '\n';
        if (starts_line) end = space;
      }
    }
    strip_next_ = after_block_ = false;
    if (begin < end) Add(Kind::kText, source_.substr(begin, end - begin));
    Advance(tag);
  }

  absl::Status Tag() {
    const char kind = source_[i_ + 1];
    Advance(i_ + 2);
    if (i_ < source_.size() && (source_[i_] == '-' || source_[i_] == '+') &&
        (kind != '{' || source_[i_] == '-')) {
      Advance(i_ + 1);
    }
    if (kind == '#') return Comment();
    if (kind == '%' && RawTag()) return Raw();
    const bool block = kind == '%';
    Add(block ? Kind::kBlockBegin : Kind::kOutputBegin, "");
    int depth = 0;
    while (true) {
      SkipSpace();
      if (i_ >= source_.size()) return Error("a tag is not closed");
      if (depth == 0 && AtTagEnd(block)) {
        CloseTag(block);
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(Lexeme(&depth));
    }
  }

  bool AtTagEnd(bool block) const {
    const absl::string_view close = block ? "%}" : "}}";
    const absl::string_view rest = absl::string_view(source_).substr(i_);
    if (rest.substr(0, 2) == close) return true;
    return (rest[0] == '-' || (block && rest[0] == '+')) && rest.substr(1, 2) == close;
  }

  void CloseTag(bool block) {
    const char sign = source_[i_];
    const bool signed_end = sign == '-' || (block && sign == '+');
    strip_next_ = sign == '-';
    after_block_ = block && sign != '+';
    Advance(i_ + (signed_end ? 3 : 2));
    Add(block ? Kind::kBlockEnd : Kind::kOutputEnd, "");
  }

  absl::Status Comment() {
    const size_t end = source_.find("#}", i_);
    if (end == std::string::npos) return Error("a comment is not closed");
    strip_next_ = end > i_ && source_[end - 1] == '-';
    after_block_ = !(end > i_ && source_[end - 1] == '+');
    Advance(end + 2);
    return absl::OkStatus();
  }

  void SkipSpace() {
    size_t to = i_;
    while (to < source_.size() && absl::ascii_isspace(source_[to])) ++to;
    Advance(to);
  }

  // Whether "raw %}" or the like stands here; moves behind it then.
  bool RawTag() {
    size_t at = i_;
    const auto skip = [&] {
      while (at < source_.size() && absl::ascii_isspace(source_[at])) ++at;
    };
    skip();
    if (source_.compare(at, 3, "raw") != 0) return false;
    at += 3;
    skip();
    const bool dash = at < source_.size() && source_[at] == '-';
    if (dash) ++at;
    if (source_.compare(at, 2, "%}") != 0) return false;
    Advance(at + 2);
    strip_next_ = dash;
    return true;
  }

  absl::Status Raw() {
    const size_t name = source_.find("endraw", i_);
    const size_t open = name == std::string::npos ? name : source_.rfind("{%", name);
    const size_t close = name == std::string::npos ? name : source_.find("%}", name);
    if (open == std::string::npos || open < i_ || close == std::string::npos) {
      return Error("raw is not closed");
    }
    size_t begin = i_;
    while (strip_next_ && begin < open && absl::ascii_isspace(source_[begin])) ++begin;
    if (begin < open) Add(Kind::kText, source_.substr(begin, open - begin));
    strip_next_ = source_[close - 1] == '-';
    after_block_ = true;
    Advance(close + 2);
    return absl::OkStatus();
  }

  absl::Status Lexeme(int* depth) {
    const char c = source_[i_];
    if (absl::ascii_isalpha(c) || c == '_') {
      size_t end = i_;
      while (end < source_.size() && (absl::ascii_isalnum(source_[end]) || source_[end] == '_'))
        ++end;
      Add(Kind::kName, source_.substr(i_, end - i_));
      i_ = end;
      return absl::OkStatus();
    }
    if (absl::ascii_isdigit(c)) return Number();
    if (c == '\'' || c == '"') return String(c);
    if (c == '(' || c == '[' || c == '{') ++*depth;
    if (c == ')' || c == ']' || c == '}') --*depth;
    if (*depth < 0) return Error("a bracket closes that was not opened");
    for (const char* two : {"==", "!=", "<=", ">=", "//", "**"}) {
      if (At(two)) {
        Add(Kind::kOperator, two);
        i_ += 2;
        return absl::OkStatus();
      }
    }
    if (absl::string_view("+-*/%~|.,:()[]{}<>=").find(c) == absl::string_view::npos) {
      return Error(absl::StrCat("unexpected character '", absl::string_view(&c, 1), "'"));
    }
    Add(Kind::kOperator, std::string(1, c));
    ++i_;
    return absl::OkStatus();
  }

  absl::Status Number() {
    size_t end = i_;
    bool is_float = false;
    while (end < source_.size() && (absl::ascii_isdigit(source_[end]) || source_[end] == '_'))
      ++end;
    if (end + 1 < source_.size() && source_[end] == '.' && absl::ascii_isdigit(source_[end + 1])) {
      is_float = true;
      ++end;
      while (end < source_.size() && absl::ascii_isdigit(source_[end])) ++end;
    }
    std::string digits = source_.substr(i_, end - i_);
    std::erase(digits, '_');
    Add(is_float ? Kind::kFloat : Kind::kInteger, std::move(digits));
    i_ = end;
    return absl::OkStatus();
  }

  absl::Status String(char quote) {
    std::string text;
    size_t at = i_ + 1;
    for (;; ++at) {
      if (at >= source_.size()) return Error("a string is not closed");
      char c = source_[at];
      if (c == quote) break;
      if (c != '\\' || at + 1 >= source_.size()) {
        text += c;
        continue;
      }
      c = source_[++at];
      static constexpr absl::string_view kEscapes = "nrtbfav0";
      static constexpr char kMeanings[] = "\n\r\t\b\f\a\v";
      const size_t escape = kEscapes.find(c);
      if (c == 'x' || c == 'u') {
        RETURN_IF_ERROR(HexEscape(c == 'x' ? 2 : 4, &at, &text));
      } else if (escape != absl::string_view::npos) {
        text += escape < 7 ? kMeanings[escape] : '\0';
      } else {
        if (c != '\\' && c != '\'' && c != '"') text += '\\';
        text += c;
      }
    }
    Add(Kind::kString, std::move(text));
    Advance(at + 1);
    return absl::OkStatus();
  }

  // \xHH and \uHHHH; `at` is on the x or u, then on the last digit.
  absl::Status HexEscape(size_t digits, size_t* at, std::string* text) const {
    char32_t value = 0;
    for (size_t k = 1; k <= digits; ++k) {
      const char c = *at + k < source_.size() ? source_[*at + k] : '\0';
      if (!absl::ascii_isxdigit(c)) return Error("a bad escape in a string");
      value = value * 16 + (absl::ascii_isdigit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (value >= 0xD800 && value < 0xE000) return Error("a surrogate in a string");
    AppendCharacter(value, text);
    *at += digits;
    return absl::OkStatus();
  }

  std::string source_;
  std::vector<Token> tokens_;
  size_t i_ = 0;
  size_t line_ = 1;
  bool strip_next_ = false;   // the tag before ended in '-'
  bool after_block_ = false;  // trim_blocks: the newline behind a block goes
};

}  // namespace

absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source) {
  return Lexer(source).Run();
}

}  // namespace quantd::jinja

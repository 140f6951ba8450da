#include "models/tokenizers/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "core/status.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

// Members of Oniguruma's \s, \w and \h, to stand inside brackets. PCRE2's own \s has U+180E in
// addition, its \w lacks marks and connectors, and its \h is something else.
constexpr char kSpaceClass[] =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr char kWordClass[] = R"(\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc})";
constexpr char kHexClass[] = "0-9a-fA-F";

constexpr uint32_t kMaxParentheses = 50;
constexpr uint32_t kHeapLimitKib = 32 << 10;
constexpr uint32_t kMatchLimit = 20'000'000;

std::string QuotedPattern(absl::string_view pattern) {
  return absl::StrCat("pattern '", absl::CHexEscape(pattern.substr(0, 200)), "'");
}

// Carries a pattern over from Oniguruma's syntax to PCRE2's.
class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (i_ < pattern_.size()) {
      const char c = pattern_[i_];
      if (c == '\\') {
        RETURN_IF_ERROR(Escape());
      } else if (in_class_) {
        RETURN_IF_ERROR(InClass(c));
      } else if (c == '[') {
        OpenClass();
      } else if (c == '(') {
        RETURN_IF_ERROR(Group());
      } else {
        out_ += c;
        ++i_;
      }
    }
    return std::move(out_);
  }

 private:
  absl::Status Unsupported(absl::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat(QuotedPattern(pattern_), ": ", what, " is not supported"));
  }

  absl::Status Escape() {
    if (i_ + 1 >= pattern_.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(QuotedPattern(pattern_), ": ends in a backslash"));
    }
    const char c = pattern_[i_ + 1];
    const char* members = nullptr;
    switch (absl::ascii_tolower(c)) {
      case 's':
        members = kSpaceClass;
        break;
      case 'w':
        members = kWordClass;
        break;
      case 'h':
        members = kHexClass;
        break;
      case 'u':
        return UnicodeEscape();
      default:
        if (absl::string_view("KGCQEgkN").find(c) != absl::string_view::npos) {
          return Unsupported(absl::StrCat("\\", absl::string_view(&c, 1)));
        }
    }
    const bool negated = absl::ascii_isupper(c);
    if (members == nullptr || (in_class_ && negated)) {
      if (members == kHexClass) return Unsupported("\\H in brackets");
      absl::StrAppend(&out_, "\\", absl::string_view(&c, 1));
    } else if (in_class_) {
      out_ += members;
    } else {
      absl::StrAppend(&out_, negated ? "[^" : "[", members, "]");
    }
    i_ += 2;
    return absl::OkStatus();
  }

  // \uHHHH
  absl::Status UnicodeEscape() {
    const absl::string_view digits = pattern_.substr(i_ + 2, 4);
    bool good = digits.size() == 4 && pattern_[i_ + 1] == 'u';
    for (const char digit : digits) good = good && absl::ascii_isxdigit(digit);
    if (!good) return Unsupported("\\u without four digits");
    absl::StrAppend(&out_, "\\x{", digits, "}");
    i_ += 6;
    return absl::OkStatus();
  }

  void OpenClass() {
    in_class_ = true;
    out_ += pattern_[i_++];
    if (i_ < pattern_.size() && pattern_[i_] == '^') out_ += pattern_[i_++];
    if (i_ < pattern_.size() && pattern_[i_] == ']') {
      out_ += "\\]";
      ++i_;
    }
  }

  absl::Status InClass(char c) {
    const char next = i_ + 1 < pattern_.size() ? pattern_[i_ + 1] : '\0';
    if (c == '&' && next == '&') return Unsupported("&& in brackets");
    if (c == '[') {
      const size_t end = next == ':' ? pattern_.find(":]", i_ + 2) : absl::string_view::npos;
      if (end == absl::string_view::npos) return Unsupported("a bracket in brackets");
      absl::StrAppend(&out_, pattern_.substr(i_, end + 2 - i_));
      i_ = end + 2;
      return absl::OkStatus();
    }
    in_class_ = c != ']';
    out_ += c;
    ++i_;
    return absl::OkStatus();
  }

  absl::Status Group() {
    const absl::string_view rest = pattern_.substr(i_ + 1);
    if (!rest.empty() && rest[0] == '*') {
      return absl::InvalidArgumentError(
          absl::StrCat(QuotedPattern(pattern_), ": nothing to repeat after '('"));
    }
    // (?m) is "dot matches newline" there.
    for (size_t k = 1; !rest.empty() && rest[0] == '?' && k < rest.size(); ++k) {
      if (rest[k] == 'm') return Unsupported("option m");
      if (!absl::ascii_isalpha(rest[k]) && rest[k] != '-') break;
      if (rest[k] == 'R' || rest[k] == 'C' || rest[k] == 'P') return Unsupported("this group");
    }
    out_ += '(';
    ++i_;
    return absl::OkStatus();
  }

  absl::string_view pattern_;
  std::string out_;
  size_t i_ = 0;
  bool in_class_ = false;
};

struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDataDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct MatchContextDeleter {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;

absl::StatusOr<Code> CompileRegex(absl::string_view pattern) {
  ASSIGN_OR_RETURN(const std::string translated, Translator(pattern).Run());
  std::unique_ptr<pcre2_compile_context, CompileContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), kMaxParentheses);
  // ^ and $ look at lines in Ruby's syntax.
  const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_AUTO_CALLOUT |
                           PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_UTF_CHECK;
  int error = 0;
  size_t offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                          options, &error, &offset, context.get()));
  if (code == nullptr) {
    PCRE2_UCHAR message[128] = {};
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat(QuotedPattern(pattern), ": ", reinterpret_cast<const char*>(message)));
  }
  return code;
}

int SpendAtCallout(pcre2_callout_block*, void* budget) {
  return static_cast<WorkBudget*>(budget)->Spend().ok() ? 0 : PCRE2_ERROR_CALLOUT;
}

}  // namespace

struct SplitPattern::Program {
  std::string literal;  // used when `known` and `code` are not
  KnownSplit known = nullptr;
  Code code;
};

absl::StatusOr<SplitPattern> SplitPattern::Compile(const TextPattern& pattern, bool use_known) {
  if (pattern.text.empty()) return absl::InvalidArgumentError("pattern is empty");
  if (ValidUtf8Prefix(pattern.text) != pattern.text.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(QuotedPattern(pattern.text), ": not valid UTF-8"));
  }
  auto program = std::make_shared<Program>();
  if (!pattern.is_regex) {
    program->literal = pattern.text;
  } else {
    // Known patterns are compiled as well: it proves them equal in syntax, and costs nothing.
    if (use_known) program->known = FindKnownSplit(pattern.text);
    ASSIGN_OR_RETURN(program->code, CompileRegex(pattern.text));
  }
  return SplitPattern(std::move(program));
}

absl::Status SplitPattern::ForEachMatch(absl::string_view text, WorkBudget* budget,
                                        absl::FunctionRef<void(size_t, size_t)> found) const {
  if (program_->known != nullptr) {
    for (size_t begin = 0; begin < text.size();) {
      const size_t end = program_->known(text, begin);
      found(begin, end);
      begin = end;
    }
    return absl::OkStatus();
  }
  if (program_->code != nullptr) return MatchRegex(text, budget, found);
  const std::string& literal = program_->literal;
  size_t begin = text.find(literal);
  while (begin != absl::string_view::npos) {
    RETURN_IF_ERROR(budget->Spend());
    found(begin, begin + literal.size());
    begin = text.find(literal, begin + literal.size());
  }
  return absl::OkStatus();
}

absl::Status SplitPattern::MatchRegex(absl::string_view text, WorkBudget* budget,
                                      absl::FunctionRef<void(size_t, size_t)> found) const {
  std::unique_ptr<pcre2_match_data, MatchDataDeleter> data(pcre2_match_data_create(1, nullptr));
  std::unique_ptr<pcre2_match_context, MatchContextDeleter> context(
      pcre2_match_context_create(nullptr));
  if (data == nullptr || context == nullptr) {
    return absl::ResourceExhaustedError("no memory for matching a pattern");
  }
  pcre2_set_callout(context.get(), SpendAtCallout, budget);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const size_t* span = pcre2_get_ovector_pointer(data.get());
  size_t from = 0;
  size_t last_end = std::string::npos;
  while (from <= text.size()) {
    const int rc = pcre2_match(program_->code.get(), subject, text.size(), from, PCRE2_NO_UTF_CHECK,
                               data.get(), context.get());
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("tokenizer: a pattern of this tokenizer takes too long on a text of ",
                       text.size(), " bytes; shorten the text or replace the pattern"));
    }
    const auto [begin, end] = std::pair(span[0], span[1]);
    if (begin == end && end == last_end) {  // an empty match right behind a match does not count
      size_t next = from;
      if (next < text.size()) NextCharacter(text, &next);
      from = next == from ? from + 1 : next;
      continue;
    }
    found(begin, end);
    from = last_end = end;
  }
  return absl::OkStatus();
}

}  // namespace quantd

#include "models/tokenizers/known_splits.h"

#include <cstdint>

#include "models/tokenizers/unicode.h"

namespace quantd {

const char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

enum class CharClass : uint8_t { kLetter, kNumber, kSpace, kOther };

CharClass Classify(char32_t c) {
  if (IsLetter(c)) return CharClass::kLetter;
  if (IsNumber(c)) return CharClass::kNumber;
  return IsWhiteSpace(c) ? CharClass::kSpace : CharClass::kOther;
}

// The end of the run of `wanted` from `i`, at most `limit` characters.
size_t RunEnd(absl::string_view text, size_t i, CharClass wanted, size_t limit = SIZE_MAX) {
  while (i < text.size() && limit-- > 0) {
    size_t next = i;
    if (Classify(NextCharacter(text, &next)) != wanted) break;
    i = next;
  }
  return i;
}

// 's|'t|'re|'ve|'m|'ll|'d at `i`, which holds an apostrophe: its length, or 0. Ignoring case, the
// long s (U+017F) is an s.
size_t Contraction(absl::string_view text, size_t i, bool ignore_case) {
  const auto at = [&](size_t k) -> char {
    if (i + k >= text.size()) return '\0';
    const char c = text[i + k];
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  };
  switch (at(1)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return at(2) == 'e' ? 3 : 0;
    case 'l':
      return at(2) == 'l' ? 3 : 0;
    default:
      return ignore_case && text.substr(i + 1, 2) == "\u017F" ? 3 : 0;
  }
}

// \s+(?!\S)|\s+ at `begin`, which holds white space: the run, without its last character when
// something follows and the run has more than one.
size_t SpaceRunEnd(absl::string_view text, size_t begin) {
  size_t i = begin, last = begin;
  while (i < text.size()) {
    size_t next = i;
    if (!IsWhiteSpace(NextCharacter(text, &next))) break;
    last = i;
    i = next;
  }
  return i == text.size() || last == begin ? i : last;
}

size_t NextGpt2(absl::string_view text, size_t begin) {
  if (text[begin] == '\'') {
    if (const size_t length = Contraction(text, begin, false); length > 0) return begin + length;
  }
  size_t i = begin;
  CharClass first = Classify(NextCharacter(text, &i));
  if (first == CharClass::kSpace) {
    if (text[begin] != ' ' || i == text.size()) return SpaceRunEnd(text, begin);
    first = Classify(NextCharacter(text, &i));
    if (first == CharClass::kSpace) return SpaceRunEnd(text, begin);
  }
  return RunEnd(text, i, first);
}

bool IsNewline(char c) { return c == '\r' || c == '\n'; }

// \s*[\r\n]+|\s+(?!\S)|\s+ at `begin`, which holds white space.
size_t SpaceOrNewlinesEnd(absl::string_view text, size_t begin) {
  size_t newline_end = begin;
  for (size_t i = begin; i < text.size();) {
    size_t next = i;
    if (!IsWhiteSpace(NextCharacter(text, &next))) break;
    if (IsNewline(text[i])) newline_end = next;
    i = next;
  }
  return newline_end > begin ? newline_end : SpaceRunEnd(text, begin);
}

// The pattern of Llama 3 and Qwen 2, which differ in how many digits stay together.
template <size_t kDigits>
size_t NextLlama3(absl::string_view text, size_t begin) {
  if (text[begin] == '\'') {
    if (const size_t length = Contraction(text, begin, true); length > 0) return begin + length;
  }
  size_t i = begin;
  const CharClass first = Classify(NextCharacter(text, &i));
  if (first == CharClass::kLetter) return RunEnd(text, i, CharClass::kLetter);
  if (first == CharClass::kNumber) return RunEnd(text, i, CharClass::kNumber, kDigits - 1);
  if (!IsNewline(text[begin])) {
    const size_t letters = RunEnd(text, i, CharClass::kLetter);
    if (letters > i) return letters;
  }
  size_t symbols = first == CharClass::kOther ? i : begin;
  if (text[begin] == ' ') symbols = RunEnd(text, i, CharClass::kOther) > i ? i : begin;
  if (symbols == begin) return SpaceOrNewlinesEnd(text, begin);
  symbols = RunEnd(text, symbols, CharClass::kOther);
  while (symbols < text.size() && IsNewline(text[symbols])) ++symbols;
  return symbols;
}

struct Known {
  const char* regex;
  KnownSplit split;
};

constexpr char kLlama3Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr char kQwen2Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

const Known kKnown[] = {
    {kGpt2Pattern, NextGpt2}, {kLlama3Pattern, NextLlama3<3>}, {kQwen2Pattern, NextLlama3<1>}};

}  // namespace

KnownSplit FindKnownSplit(absl::string_view regex) {
  for (const Known& known : kKnown) {
    if (regex == known.regex) return known.split;
  }
  return nullptr;
}

}  // namespace quantd

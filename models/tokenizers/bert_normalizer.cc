#include <string>

#include "models/tokenizers/normalizer.h"
#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

// The blocks that BERT sets apart, with the bounds of upstream's implementation.
bool IsIdeograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
         (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// Dropped by clean_text. Tab and newlines are white space here, not controls.
bool IsDropped(char32_t c) {
  if (c == '\t' || c == '\n' || c == '\r') return false;
  return c == 0xFFFD || IsControlOrFormat(c);
}

}  // namespace

std::string NormalizeForBert(const NormalizerStep& step, absl::string_view text) {
  std::string cleaned;
  cleaned.reserve(text.size() + text.size() / 4);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCharacter(text, &i);
    if (step.clean_text && IsDropped(c)) continue;
    if (step.clean_text && IsWhiteSpace(c)) {
      cleaned += ' ';
    } else if (step.handle_chinese_chars && IsIdeograph(c)) {
      cleaned += ' ';
      AppendCharacter(c, &cleaned);
      cleaned += ' ';
    } else {
      AppendCharacter(c, &cleaned);
    }
  }
  const bool strip_accents = step.strip_accents.value_or(step.lowercase);
  if (strip_accents) cleaned = Normalize(NormalForm::kNfd, cleaned);
  if (!strip_accents && !step.lowercase) return cleaned;
  std::string out;
  out.reserve(cleaned.size());
  for (size_t i = 0; i < cleaned.size();) {
    const char32_t c = NextCharacter(cleaned, &i);
    if (strip_accents && IsNonspacingMark(c)) continue;
    if (step.lowercase) {
      AppendLowercase(c, &out);
    } else {
      AppendCharacter(c, &out);
    }
  }
  return out;
}

}  // namespace quantd

#include "models/tokenizers/unicode.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

namespace quantd {
namespace {

uint32_t CategoryMask(char32_t c) { return U_GET_GC_MASK(static_cast<UChar32>(c)); }

// CategoryMask for characters that Unicode 8 has, else 0.
uint32_t OldCategoryMask(char32_t c) {
  UVersionInfo age;
  u_charAge(static_cast<UChar32>(c), age);
  return age[0] == 0 || age[0] > 8 ? 0 : CategoryMask(c);
}

const icu::Normalizer2* NormalizerOf(NormalForm form) {
  UErrorCode error = U_ZERO_ERROR;
  switch (form) {
    case NormalForm::kNfc:
      return icu::Normalizer2::getNFCInstance(error);
    case NormalForm::kNfd:
      return icu::Normalizer2::getNFDInstance(error);
    case NormalForm::kNfkc:
      return icu::Normalizer2::getNFKCInstance(error);
    case NormalForm::kNfkd:
      return icu::Normalizer2::getNFKDInstance(error);
  }
  return nullptr;
}

}  // namespace

void AppendCharacter(char32_t c, std::string* out) {
  char buffer[4];
  int length = 0;
  U8_APPEND_UNSAFE(buffer, length, static_cast<UChar32>(c));
  out->append(buffer, length);
}

size_t ValidUtf8Prefix(absl::string_view text) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  const int64_t size = static_cast<int64_t>(text.size());
  int64_t i = 0;
  while (i < size) {
    if (bytes[i] < 0x80) {
      ++i;
      continue;
    }
    const int64_t start = i;
    UChar32 c;
    U8_NEXT(bytes, i, size, c);
    if (c < 0) return static_cast<size_t>(start);
  }
  return text.size();
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    out.append(text.data(), valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
    int64_t next = 0;
    UChar32 c;
    U8_NEXT(bytes, next, static_cast<int64_t>(text.size()), c);
    out += "\uFFFD";
    text.remove_prefix(static_cast<size_t>(next));
  }
  return out;
}

bool IsLetter(char32_t c) {
  if (c < 0x80) return (c | 0x20) - 'a' < 26u;
  return (CategoryMask(c) & U_GC_L_MASK) != 0;
}

bool IsNumber(char32_t c) {
  if (c < 0x80) return c - '0' < 10u;
  return (CategoryMask(c) & U_GC_N_MASK) != 0;
}

bool IsWhiteSpace(char32_t c) {
  if (c < 0x80) return c == ' ' || c - '\t' < 5u;
  return u_isUWhiteSpace(static_cast<UChar32>(c));
}

bool IsWordCharacter(char32_t c) {
  if (c < 0x80) return IsLetter(c) || IsNumber(c) || c == '_';
  if (c == 0x200C || c == 0x200D) return true;
  if ((CategoryMask(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0) return true;
  return u_isUAlphabetic(static_cast<UChar32>(c));
}

bool IsPunctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && !IsLetter(c) && !IsNumber(c);
  return (OldCategoryMask(c) & U_GC_P_MASK) != 0;
}

bool IsMark(char32_t c) { return c >= 0x300 && (CategoryMask(c) & U_GC_M_MASK) != 0; }

bool IsNonspacingMark(char32_t c) { return c >= 0x300 && (OldCategoryMask(c) & U_GC_MN_MASK) != 0; }

bool IsControlOrFormat(char32_t c) {
  if (c < 0x80) return c < ' ' || c == 0x7F;
  return (OldCategoryMask(c) & (U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK)) != 0;
}

void AppendLowercase(char32_t c, std::string* out) {
  if (c == 0x130) {  // the only character whose lower case is two
    out->append("i\u0307");
    return;
  }
  AppendCharacter(static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))), out);
}

std::string Normalize(NormalForm form, absl::string_view text) {
  const icu::Normalizer2* normalizer = NormalizerOf(form);
  std::string out;
  if (normalizer == nullptr) return std::string(text);
  out.reserve(text.size());
  icu::StringByteSink<std::string> sink(&out);
  UErrorCode error = U_ZERO_ERROR;
  normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())),
                            sink, nullptr, error);
  return U_FAILURE(error) ? std::string(text) : out;
}

}  // namespace quantd

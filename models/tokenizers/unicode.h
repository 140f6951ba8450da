// Characters as the tokenizers see them: UTF-8 decoding and the classes of Unicode 15 (ICU 72) that
// normalizers and splitters ask for. Where upstream's tables are older the difference is named.
#ifndef QUANTD_MODELS_TOKENIZERS_UNICODE_H_
#define QUANTD_MODELS_TOKENIZERS_UNICODE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Decodes the character at `text[i]` and moves `i` behind it. `text` is valid UTF-8.
inline char32_t NextCharacter(absl::string_view text, size_t* i) {
  const auto byte = [&](size_t k) { return static_cast<uint8_t>(text[k]); };
  const uint8_t lead = byte((*i)++);
  if (lead < 0x80) return lead;
  const int more = lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
  char32_t c = lead & (0x3F >> more);
  for (int k = 0; k < more; ++k) c = (c << 6) | (byte((*i)++) & 0x3F);
  return c;
}

void AppendCharacter(char32_t c, std::string* out);

// Offset of the first byte that is not part of valid UTF-8, or text.size().
size_t ValidUtf8Prefix(absl::string_view text);

// `text` with every ill-formed sequence replaced by U+FFFD, one for each maximal subpart.
std::string ReplaceInvalidUtf8(absl::string_view text);

bool IsLetter(char32_t c);         // \p{L}
bool IsNumber(char32_t c);         // \p{N}
bool IsWhiteSpace(char32_t c);     // property White_Space
bool IsWordCharacter(char32_t c);  // \w of UTS #18: alphabetic, mark, decimal, connector, joiner
bool IsMark(char32_t c);           // \p{M}

// As upstream's tables have it, which end with Unicode 8: characters assigned later are in no
// class.
bool IsPunctuation(char32_t c);      // \p{P}, and the ASCII symbols
bool IsNonspacingMark(char32_t c);   // \p{Mn}
bool IsControlOrFormat(char32_t c);  // \p{Cc}, \p{Cf}, \p{Co}

// Full lower case of one character, without context (so no final sigma).
void AppendLowercase(char32_t c, std::string* out);

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
std::string Normalize(NormalForm form, absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_UNICODE_H_

#include "models/tokenizers/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "models/tokenizers/unicode.h"

namespace quantd {
namespace {

struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<int16_t, 0x180> byte;  // -1: not in the alphabet

  Alphabet() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

void AppendByteAlphabet(absl::string_view bytes, std::string* out) {
  const Alphabet& alphabet = TheAlphabet();
  for (const char b : bytes) {
    const char32_t c = alphabet.character[static_cast<uint8_t>(b)];
    if (c < 0x80) {
      out->push_back(static_cast<char>(c));
    } else {
      out->push_back(static_cast<char>(0xC0 | (c >> 6)));
      out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
    }
  }
}

bool AppendAlphabetBytes(absl::string_view text, std::string* out) {
  const Alphabet& alphabet = TheAlphabet();
  const size_t before = out->size();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCharacter(text, &i);
    const int16_t byte = c < alphabet.byte.size() ? alphabet.byte[c] : int16_t{-1};
    if (byte < 0) {
      out->resize(before);
      return false;
    }
    out->push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace quantd

// The alphabet of byte-level BPE (GPT-2): one printable character for each byte.
#ifndef QUANTD_MODELS_TOKENIZERS_BYTE_ALPHABET_H_
#define QUANTD_MODELS_TOKENIZERS_BYTE_ALPHABET_H_

#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Appends the characters for `bytes`: one or two bytes of UTF-8 for each.
void AppendByteAlphabet(absl::string_view bytes, std::string* out);

// Appends the bytes that `text` stands for; false, with nothing appended, when a character is not
// in the alphabet.
bool AppendAlphabetBytes(absl::string_view text, std::string* out);

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_BYTE_ALPHABET_H_

// UTF-8 checks of names and tokens from files.
#ifndef QUANTD_FORMATS_HUGGINGFACE_UTF8_H_
#define QUANTD_FORMATS_HUGGINGFACE_UTF8_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace quantd {

// RFC 3629: no overlong form, no surrogate, nothing past U+10FFFF.
bool IsValidUtf8(absl::string_view text);

// Characters of a valid UTF-8 text.
size_t Utf8Length(absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_UTF8_H_

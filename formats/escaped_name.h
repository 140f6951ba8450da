// Names that come from files and requests, made safe for messages and logs.
#ifndef QUANTD_FORMATS_ESCAPED_NAME_H_
#define QUANTD_FORMATS_ESCAPED_NAME_H_

#include <algorithm>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace quantd {

// `name` as printable ASCII (everything else as \xNN), cut to 200 bytes.
inline std::string EscapedName(absl::string_view name) {
  constexpr size_t kLimit = 200;
  std::string escaped = absl::CHexEscape(name.substr(0, kLimit));
  if (escaped.size() > kLimit || name.size() > kLimit) {
    escaped.resize(std::min(escaped.size(), kLimit - 3));
    escaped += "...";
  }
  return escaped;
}

// The same in single quotes, as messages show it.
inline std::string Quoted(absl::string_view name) {
  return absl::StrCat("'", EscapedName(name), "'");
}

}  // namespace quantd

#endif  // QUANTD_FORMATS_ESCAPED_NAME_H_

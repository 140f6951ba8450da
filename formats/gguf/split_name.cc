#include "formats/gguf/split_name.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace quantd {

std::string GgufSplitName::FileName() const {
  return absl::StrFormat("%s-%05d-of-%05d.gguf", prefix, part, parts);
}

std::optional<GgufSplitName> ParseGgufSplitName(absl::string_view file_name) {
  constexpr absl::string_view kTail = "-00001-of-00001.gguf";
  if (file_name.size() <= kTail.size()) return std::nullopt;
  const absl::string_view tail = file_name.substr(file_name.size() - kTail.size());
  const absl::string_view part = tail.substr(1, 5), parts = tail.substr(10, 5);
  for (const absl::string_view number : {part, parts}) {
    if (!std::all_of(number.begin(), number.end(), absl::ascii_isdigit)) return std::nullopt;
  }
  GgufSplitName name{.prefix = std::string(file_name.substr(0, file_name.size() - kTail.size()))};
  if (!absl::SimpleAtoi(part, &name.part) || !absl::SimpleAtoi(parts, &name.parts) ||
      name.part < 1 || name.part > name.parts || name.FileName() != file_name) {
    return std::nullopt;
  }
  return name;
}

}  // namespace quantd

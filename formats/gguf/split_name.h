// File names of a model that llama-gguf-split has cut into parts: NAME-00001-of-00003.gguf.
#ifndef QUANTD_FORMATS_GGUF_SPLIT_NAME_H_
#define QUANTD_FORMATS_GGUF_SPLIT_NAME_H_

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

struct GgufSplitName {
  std::string prefix;  // "NAME"
  int part = 1;        // from 1
  int parts = 1;
  std::string FileName() const;
};

// nullopt for names of another form, and for a part beyond the number of parts.
std::optional<GgufSplitName> ParseGgufSplitName(absl::string_view file_name);

}  // namespace quantd

#endif  // QUANTD_FORMATS_GGUF_SPLIT_NAME_H_

// Hand-written equals of published splitting patterns, each a single pass without backtracking.
#ifndef QUANTD_MODELS_TOKENIZERS_KNOWN_SPLITS_H_
#define QUANTD_MODELS_TOKENIZERS_KNOWN_SPLITS_H_

#include <cstddef>

#include "absl/strings/string_view.h"

namespace quantd {

// The pattern of the ByteLevel pre-tokenizer (GPT-2).
extern const char kGpt2Pattern[];

// The end of the match that starts at `begin` < text.size(). These patterns match at every
// position. `text` is valid UTF-8.
using KnownSplit = size_t (*)(absl::string_view text, size_t begin);

// Nothing (null) for a regular expression not known here.
KnownSplit FindKnownSplit(absl::string_view regex);

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_KNOWN_SPLITS_H_

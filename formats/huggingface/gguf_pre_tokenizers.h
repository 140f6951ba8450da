// What the names in tokenizer.ggml.pre stand for. Private to this folder.
#ifndef QUANTD_FORMATS_HUGGINGFACE_GGUF_PRE_TOKENIZERS_H_
#define QUANTD_FORMATS_HUGGINGFACE_GGUF_PRE_TOKENIZERS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "formats/huggingface/tokenizer_spec.h"

namespace quantd {

struct GgufPreTokenizer {
  std::vector<PreTokenizerStep> steps;
  std::vector<NormalizerStep> normalizer;
  bool ignore_merges = false;
  bool add_bos = false;  // when the file does not say
};

// Nothing for an unknown name.
std::optional<GgufPreTokenizer> FindGgufPreTokenizer(absl::string_view name);

// The name whose steps equal `steps`; empty when there is none.
std::string GgufPreTokenizerName(const std::vector<PreTokenizerStep>& steps, bool ignore_merges);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_GGUF_PRE_TOKENIZERS_H_

// Turns tokens back into bytes. Semantics: PyPI `tokenizers` 0.23, decoders; but the result is
// bytes, so that nothing is lost where tokens end inside a character.
#ifndef QUANTD_MODELS_TOKENIZERS_DECODER_H_
#define QUANTD_MODELS_TOKENIZERS_DECODER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/split_pattern.h"

namespace quantd {

class Decoder {
 public:
  // UNIMPLEMENTED for a chain that cannot be applied token by token: after Fuse,
  // anything but one Strip of the start.
  static absl::StatusOr<Decoder> Create(const std::vector<DecoderStep>& steps);

  // The bytes of one token; `first` when no token came before it.
  std::string TokenBytes(absl::string_view token, bool first) const;

  // Off the front of the whole text go up to `trim_start` repetitions of `trim_content`.
  const std::string& trim_content() const { return trim_content_; }
  size_t trim_start() const { return trim_start_; }

 private:
  struct Step {
    DecoderStep spec;
    std::optional<SplitPattern> pattern;
  };
  static std::string ApplyStep(const Step& step, std::string token, bool first);

  bool spaced_ = false;  // no decoder at all: tokens are joined with spaces
  std::vector<Step> steps_;
  std::string trim_content_;
  size_t trim_start_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_DECODER_H_

// Splits a normalized text into the words that the model segments.
// Algorithms: PyPI `tokenizers` 0.23, module pre_tokenizers.
#ifndef QUANTD_MODELS_TOKENIZERS_PRE_TOKENIZER_H_
#define QUANTD_MODELS_TOKENIZERS_PRE_TOKENIZER_H_

#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/split_pattern.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

// Words in order, as views of the caller's text or of `storage`.
struct WordList {
  struct Word {
    absl::string_view text;
    bool at_start = false;  // nothing of the original text stands before it
  };
  std::vector<Word> words;
  std::deque<std::string> storage;
};

class PreTokenizer {
 public:
  // Fails as SplitPattern::Compile does.
  static absl::StatusOr<PreTokenizer> Create(const std::vector<PreTokenizerStep>& steps);

  // Replaces `list` (usually one word, the text) by its words. No word is empty.
  absl::Status Apply(WordList* list, WorkBudget* budget) const;

 private:
  struct Step {
    PreTokenizerStep spec;
    std::optional<SplitPattern> pattern;
  };

  std::vector<Step> steps_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_PRE_TOKENIZER_H_

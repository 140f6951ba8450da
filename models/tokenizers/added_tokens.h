// Finds the added tokens of a vocabulary ("<|im_start|>") in a text before anything else happens.
// Semantics: PyPI `tokenizers` 0.23, AddedVocabulary (leftmost-longest matches, in one pass).
#ifndef QUANTD_MODELS_TOKENIZERS_ADDED_TOKENS_H_
#define QUANTD_MODELS_TOKENIZERS_ADDED_TOKENS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/byte_trie.h"
#include "models/tokenizers/normalizer.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

class AddedTokens {
 public:
  // A stretch of the text: plain, or an added token.
  struct Section {
    absl::string_view text;
    int32_t id = -1;  // -1: plain text
  };

  // Tokens marked `normalized` are looked for as `normalizer` leaves them.
  static absl::StatusOr<AddedTokens> Create(const std::vector<AddedTokenSpec>& tokens,
                                            const Normalizer& normalizer);

  // Cuts `text` into sections by the tokens that are (or are not) matched in normalized text.
  // Special tokens are left as text unless `parse_special`.
  absl::StatusOr<std::vector<Section>> Split(absl::string_view text, bool normalized,
                                             bool parse_special, WorkBudget* budget) const;

 private:
  std::vector<AddedTokenSpec> tokens_;
  ByteTrie raw_;  // values are indices into tokens_
  ByteTrie normalized_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_ADDED_TOKENS_H_

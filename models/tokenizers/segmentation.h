// How a word becomes ids: the four models of PyPI `tokenizers` 0.23.
#ifndef QUANTD_MODELS_TOKENIZERS_SEGMENTATION_H_
#define QUANTD_MODELS_TOKENIZERS_SEGMENTATION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/vocabulary.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

// Immutable to callers and safe for any number of threads.
class Segmentation {
 public:
  virtual ~Segmentation() = default;

  // Appends the ids of `word` (valid UTF-8, not empty). INVALID_ARGUMENT when a piece is unknown
  // and the model has no token for that; RESOURCE_EXHAUSTED when the budget is spent.
  virtual absl::Status Segment(absl::string_view word, WorkBudget* budget,
                               std::vector<int32_t>* ids) const = 0;
};

// `spec` is of the named kind and has passed ValidateTokenizerSpec; `vocabulary` outlives the
// result.
std::unique_ptr<const Segmentation> MakeBpe(const TokenizationModelSpec& spec,
                                            const Vocabulary& vocabulary);
std::unique_ptr<const Segmentation> MakeWordPiece(const TokenizationModelSpec& spec,
                                                  const Vocabulary& vocabulary);
std::unique_ptr<const Segmentation> MakeWordLevel(const TokenizationModelSpec& spec,
                                                  const Vocabulary& vocabulary);
std::unique_ptr<const Segmentation> MakeUnigram(const TokenizationModelSpec& spec,
                                                const Vocabulary& vocabulary);

// The error of a word that has no ids.
absl::Status NoUnknownToken(absl::string_view word);

// The ids of the byte tokens <0x00>..<0xFF>; -1 where the vocabulary has none.
std::vector<int32_t> ByteTokenIds(const Vocabulary& vocabulary);

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_SEGMENTATION_H_

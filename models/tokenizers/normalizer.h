// Rewrites a text before it is split: Unicode normal forms, case, accents, replacements.
// Algorithms: PyPI `tokenizers` 0.23, module normalizers.
#ifndef QUANTD_MODELS_TOKENIZERS_NORMALIZER_H_
#define QUANTD_MODELS_TOKENIZERS_NORMALIZER_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/split_pattern.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

class Normalizer {
 public:
  // Fails as SplitPattern::Compile does.
  static absl::StatusOr<Normalizer> Create(const std::vector<NormalizerStep>& steps);

  bool empty() const { return steps_.empty(); }

  // The normalized `text`, which is valid UTF-8. RESOURCE_EXHAUSTED when it grows past the budget.
  absl::StatusOr<std::string> Apply(absl::string_view text, WorkBudget* budget) const;

 private:
  struct Step {
    NormalizerStep spec;
    std::optional<SplitPattern> pattern;
  };
  static absl::StatusOr<std::string> ApplyStep(const Step& step, std::string text,
                                               WorkBudget* budget);

  std::vector<Step> steps_;
};

// BertNormalizer: cleans control characters and white space, isolates CJK ideographs, strips
// accents and lowers case, as `step` says.
std::string NormalizeForBert(const NormalizerStep& step, absl::string_view text);

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_NORMALIZER_H_

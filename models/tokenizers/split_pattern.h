// A pattern from a tokenizer.json, found in texts at a bounded price.
//
// Upstream compiles patterns with Oniguruma (Ruby syntax). Here a pattern is one of: a literal, a
// published splitting pattern with a hand-written equal (known_splits.h), or a PCRE2 program into
// whose syntax the pattern is carried over. PCRE2 calls back at every item, so that the budget
// stops runaway matching; look-around and possessive quantifiers work.
#ifndef QUANTD_MODELS_TOKENIZERS_SPLIT_PATTERN_H_
#define QUANTD_MODELS_TOKENIZERS_SPLIT_PATTERN_H_

#include <cstddef>
#include <memory>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/huggingface/tokenizer_spec.h"
#include "models/tokenizers/known_splits.h"
#include "models/tokenizers/work_budget.h"

namespace quantd {

class SplitPattern {
 public:
  // INVALID_ARGUMENT when the pattern is malformed, too large or empty; UNIMPLEMENTED for syntax
  // that PCRE2 has no equal of. `use_known` false always takes the regular expression (for tests).
  static absl::StatusOr<SplitPattern> Compile(const TextPattern& pattern, bool use_known = true);

  // Calls found(begin, end) for each match from left to right, none overlapping, empty ones
  // included; `text` is valid UTF-8. RESOURCE_EXHAUSTED when the budget or a limit of the matcher
  // is reached.
  absl::Status ForEachMatch(absl::string_view text, WorkBudget* budget,
                            absl::FunctionRef<void(size_t, size_t)> found) const;

 private:
  struct Program;
  explicit SplitPattern(std::shared_ptr<const Program> program) : program_(std::move(program)) {}

  absl::Status MatchRegex(absl::string_view text, WorkBudget* budget,
                          absl::FunctionRef<void(size_t, size_t)> found) const;

  std::shared_ptr<const Program> program_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_SPLIT_PATTERN_H_

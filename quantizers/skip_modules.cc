// Which modules stay as they are when a config does not say so itself
// (transformers 5.23, quantizers/quantizers_utils.py and base.py).
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "re2/re2.h"

namespace quantd {

bool MatchesSkipPattern(absl::string_view module, absl::string_view pattern) {
  if (pattern.empty()) return false;
  if (absl::EndsWith(module, pattern)) return true;
  // RE2 runs in linear time; the memory cap bounds what a pattern from a file can make of itself.
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  const RE2 regex(absl::StrCat("(?:", pattern, ")(?:\\.|$)"), options);
  return regex.ok() && regex.Match(re2::StringPiece(module.data(), module.size()), 0, module.size(),
                                   RE2::ANCHOR_START, nullptr, 0);
}

bool IsSkippedByDefault(const ModuleInfo& module) {
  return module.is_output_embedding || module.is_tied || module.is_last;
}

bool IsSkipped(const ModuleInfo& module, const std::optional<std::vector<std::string>>& patterns) {
  if (!patterns) return IsSkippedByDefault(module);
  for (const std::string& pattern : *patterns) {
    if (MatchesSkipPattern(module.name, pattern)) return true;
  }
  return false;
}

}  // namespace quantd

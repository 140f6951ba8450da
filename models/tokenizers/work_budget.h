// What one Encode call may spend. Patterns and replacements come from files that nobody vouches
// for, so the time and the growth of the text are bounded, never assumed.
#ifndef QUANTD_MODELS_TOKENIZERS_WORK_BUDGET_H_
#define QUANTD_MODELS_TOKENIZERS_WORK_BUDGET_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"

namespace quantd {

// Half a second of processor time for each 64 KiB of text, begun ones counted; and 64 KiB + 32
// times the text for what normalization makes of it (NFKC grows a character 11-fold at most).
class WorkBudget {
 public:
  explicit WorkBudget(size_t text_bytes);

  // Counts `units` of about 100 ns; looks at the clock now and then. RESOURCE_EXHAUSTED when the
  // time is over.
  absl::Status Spend(uint32_t units = 1) {
    if (units < left_) {
      left_ -= units;
      return absl::OkStatus();
    }
    return CheckClock();
  }

  // RESOURCE_EXHAUSTED when a normalized text of `bytes` is too long.
  absl::Status CheckSize(size_t bytes) const;

 private:
  absl::Status CheckClock();

  uint32_t left_;
  int64_t deadline_ns_;
  size_t text_bytes_;
  size_t max_bytes_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_TOKENIZERS_WORK_BUDGET_H_

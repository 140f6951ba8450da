#include "models/tokenizers/work_budget.h"

#include <time.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr uint32_t kUnitsPerClock = 512;
constexpr int64_t kNanosecondsPerBlock = 500'000'000;
constexpr size_t kBlock = size_t{64} << 10;

int64_t ThreadNanoseconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

WorkBudget::WorkBudget(size_t text_bytes)
    : left_(kUnitsPerClock),
      deadline_ns_(ThreadNanoseconds() +
                   kNanosecondsPerBlock * static_cast<int64_t>(std::max<size_t>(
                                              1, (text_bytes + kBlock - 1) / kBlock))),
      text_bytes_(text_bytes),
      max_bytes_(kBlock + 32 * text_bytes) {}

absl::Status WorkBudget::CheckClock() {
  left_ = kUnitsPerClock;
  if (ThreadNanoseconds() <= deadline_ns_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("tokenizer: a text of ", text_bytes_,
                   " bytes takes too long with this tokenizer's patterns; shorten the text or "
                   "replace the pattern in tokenizer.json"));
}

absl::Status WorkBudget::CheckSize(size_t bytes) const {
  if (bytes <= max_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("tokenizer: the normalizer makes ", bytes,
                                                   " bytes of a text of ", text_bytes_,
                                                   ", the limit is ", max_bytes_));
}

}  // namespace quantd

// Ends a stream of text at the first stop string.
#ifndef QUANTD_MODELS_SAMPLING_STOP_MATCHER_H_
#define QUANTD_MODELS_SAMPLING_STOP_MATCHER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace quantd {

inline constexpr size_t kMaxStopStrings = 64;
inline constexpr size_t kMaxStopStringBytes = 1024;

// INVALID_ARGUMENT for an empty or too long stop string, or too many.
absl::Status ValidateStopStrings(const std::vector<std::string>& stops);

// Text that may turn out to be the beginning of a stop string is held back. Works on bytes.
class StopMatcher {
 public:
  // `stops` have passed ValidateStopStrings.
  explicit StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // Adds `text` and returns what is now certain to stand before any stop string. After a match
  // (stopped()) everything further is dropped.
  std::string Push(absl::string_view text);

  // What is held back, when the stream ends without a stop string.
  std::string Flush();

  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_SAMPLING_STOP_MATCHER_H_

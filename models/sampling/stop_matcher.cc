#include "models/sampling/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// The longest end of `text` that a stop string may continue.
size_t PossibleBeginning(absl::string_view text, absl::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == stop.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

absl::Status ValidateStopStrings(const std::vector<std::string>& stops) {
  if (stops.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat(stops.size(), " stop strings, the limit is ", kMaxStopStrings));
  }
  for (const std::string& stop : stops) {
    if (stop.empty() || stop.size() > kMaxStopStringBytes) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a stop string of ", stop.size(), " bytes, expected 1 to ", kMaxStopStringBytes));
    }
  }
  return absl::OkStatus();
}

std::string StopMatcher::Push(absl::string_view text) {
  if (stopped_) return "";
  absl::StrAppend(&held_, text);
  size_t match = std::string::npos;
  for (const std::string& stop : stops_) match = std::min(match, held_.find(stop));
  if (match != std::string::npos) {
    stopped_ = true;
    held_.resize(match);
    return std::exchange(held_, "");
  }
  size_t keep = 0;
  for (const std::string& stop : stops_) keep = std::max(keep, PossibleBeginning(held_, stop));
  std::string out = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(held_, ""); }

}  // namespace quantd

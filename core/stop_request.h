// How long work learns that nobody wants its result any more.
#ifndef QUANTD_CORE_STOP_REQUEST_H_
#define QUANTD_CORE_STOP_REQUEST_H_

#include <functional>

#include "core/status.h"

namespace quantd {

// Asked every tenths of a second, from any thread; true ends the work with CANCELLED. May be empty.
using StopRequest = std::function<bool()>;

inline absl::Status CheckStopped(const StopRequest& stopped) {
  if (stopped && stopped()) return absl::CancelledError("the operation was cancelled");
  return absl::OkStatus();
}

}  // namespace quantd

#endif  // QUANTD_CORE_STOP_REQUEST_H_

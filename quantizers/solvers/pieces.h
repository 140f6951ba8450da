// Long loops that can be stopped.
#ifndef QUANTD_QUANTIZERS_SOLVERS_PIECES_H_
#define QUANTD_QUANTIZERS_SOLVERS_PIECES_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/parallel.h"
#include "core/status.h"
#include "core/stop_request.h"

namespace quantd {

// body(i) for i in [0, count) as ParallelFor, each of them some milliseconds at most. CANCELLED,
// with some left out, when `stopped` says so, which is asked before every call.
template <class Body>
absl::Status ParallelForUnlessStopped(int64_t count, const StopRequest& stopped, const Body& body) {
  std::atomic<bool> ends{false};
  ParallelFor(count, [&](int64_t i) {
    if (ends.load(std::memory_order_relaxed)) return;
    if (stopped && stopped()) {
      ends.store(true, std::memory_order_relaxed);
    } else {
      body(i);
    }
  });
  if (!ends) return absl::OkStatus();
  return absl::CancelledError("the operation was cancelled");
}

// body(i) for i in [0, count) as ParallelFor, which takes about `operations` additions and
// multiplications each. CANCELLED, with some left out, when `stopped` says so.
template <class Body>
absl::Status ParallelPieces(int64_t count, double operations, const StopRequest& stopped,
                            const Body& body) {
  constexpr double kPiece = 1e9;   // a tenth of a second on a slow machine
  constexpr double kSerial = 2e7;  // milliseconds: not worth waking the team for
  if (operations * static_cast<double>(count) < kSerial) {
    RETURN_IF_ERROR(CheckStopped(stopped));
    RunCompute(TaskPriority::kBackground, [&] {
      for (int64_t i = 0; i < count; ++i) body(i);
    });
    return absl::OkStatus();
  }
  const double wanted = kPiece / std::max(operations, 1.0);
  const int64_t piece = wanted >= static_cast<double>(count)
                            ? count
                            : std::max<int64_t>(static_cast<int64_t>(wanted), ComputeThreads());
  for (int64_t first = 0; first < count; first += piece) {
    RETURN_IF_ERROR(CheckStopped(stopped));
    ParallelFor(std::min(piece, count - first), [&](int64_t i) { body(first + i); });
  }
  return absl::OkStatus();
}

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_PIECES_H_

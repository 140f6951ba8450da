// Long loops that can be stopped.
#ifndef QUANTD_QUANTIZERS_SOLVERS_PIECES_H_
#define QUANTD_QUANTIZERS_SOLVERS_PIECES_H_

#include <algorithm>
#include <cstdint>
#include <functional>

#include "core/parallel.h"
#include "core/status.h"

namespace quantd {

// Asked every tenths of a second; true ends a solver with CANCELLED. May be empty.
using StopRequest = std::function<bool()>;

inline absl::Status CheckStopped(const StopRequest& stopped) {
  if (stopped && stopped()) return absl::CancelledError("the operation was cancelled");
  return absl::OkStatus();
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

// The one compute pool of the process.
//
// All heavy arithmetic, of inference and of quantization, runs on one OpenMP team owned by one
// thread, so that concurrent requests never use more threads than the cgroup grants. Work enters as
// a task; inside it ParallelFor forks and joins the team.
#ifndef QUANTD_CORE_PARALLEL_H_
#define QUANTD_CORE_PARALLEL_H_

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace quantd {

// Sizes the team. Call before the first task; 0 means AvailableCpus().
void SetComputeThreads(int threads);
int ComputeThreads();

enum class TaskPriority { kInteractive, kBackground };

// Runs `task` on the compute thread and waits for it. Interactive tasks go before background ones,
// so a background job should submit slices of some milliseconds. Nested calls run in place.
// `task` must not block on another task or throw.
void RunCompute(TaskPriority priority, absl::FunctionRef<void()> task);

// Runs `body`, background work of many short loops, on the compute thread, where a loop forks in
// microseconds; interactive tasks run between the slices of its loops. `body` must not wait for
// anything, or throw. Nested calls run in place.
void RunBackground(absl::FunctionRef<void()> body);

// Calls body(i) for i in [0, count), shared among the team's threads in dynamic order. Results must
// not depend on the order. Outside a task it runs as background tasks of 50 ms, each in slices of
// some milliseconds: `seconds`, about what one call takes, spares it the small first ones by which
// it finds out.
void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> body, double seconds = 0);

// One call per team member, body(thread, threads), with a static split left to the body. The way in
// for kernels that keep per-thread state or barriers. Only inside a task.
void ParallelTeam(absl::FunctionRef<void(int thread, int threads)> body);

// Waits for every member of the running team. Only inside ParallelTeam.
void TeamBarrier();

}  // namespace quantd

#endif  // QUANTD_CORE_PARALLEL_H_

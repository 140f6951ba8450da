// Fork and join under core/parallel.cc, which alone calls it, always from the compute thread.
//
// team_openmp.cc is what ships. team_threads.cc is the same with threads and mutexes of the
// standard library, for builds where OpenMP is not to be had (clang without libomp) or cannot be
// watched: ThreadSanitizer sees no synchronization inside libgomp and would report every region as
// a race.
#ifndef QUANTD_CORE_TEAM_H_
#define QUANTD_CORE_TEAM_H_

#include <cstdint>

#include "absl/functional/function_ref.h"

namespace quantd::team {

// Whether the calling thread is a member of a running team.
bool InTeam();
// body(i) for i in [0, count), in dynamic order; returns when all are done.
void ForEach(int threads, int64_t count, absl::FunctionRef<void(int64_t)> body);
// body(member, threads) once per member; returns when all are done.
void ForEachMember(int threads, absl::FunctionRef<void(int member, int threads)> body);
// Waits for every member of the running team; with no team, returns at once.
void Barrier();

}  // namespace quantd::team

#endif  // QUANTD_CORE_TEAM_H_

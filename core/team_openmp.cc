#include <omp.h>

#include "core/team.h"

namespace quantd::team {

bool InTeam() { return omp_in_parallel() != 0; }

void ForEach(int threads, int64_t count, absl::FunctionRef<void(int64_t)> body) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (int64_t i = 0; i < count; ++i) body(i);
}

void ForEachMember(int threads, absl::FunctionRef<void(int, int)> body) {
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num(), omp_get_num_threads());
}

void Barrier() {
#pragma omp barrier
}

}  // namespace quantd::team

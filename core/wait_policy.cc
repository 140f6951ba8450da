#include "core/wait_policy.h"

#include <unistd.h>

#include <climits>
#include <cstdlib>

namespace quantd {

void ShortenSpins(char** argv) {
  constexpr const char* kSpins = "10000";
  if (getenv("OMP_WAIT_POLICY") != nullptr || getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (setenv("GOMP_SPINCOUNT", kSpins, 0) != 0) return;
  // Same process, same arguments, and by its path the same name. Without /proc the long spins stay.
  char path[PATH_MAX];
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return;
  path[length] = '\0';
  execv(path, argv);
}

}  // namespace quantd

// Facts about this process from /proc, and its limits.
#ifndef QUANTD_SERVICE_PROCESS_H_
#define QUANTD_SERVICE_PROCESS_H_

#include <cstdint>

namespace quantd {

struct ProcessFacts {
  uint64_t resident_bytes = 0;
  double cpu_seconds = 0;
  int open_files = 0;
  double max_files = 0;
  double start_time_seconds = 0;
};

ProcessFacts ReadProcessFacts();
// Memory of the machine.
uint64_t PhysicalMemory();
// The soft limit of open files becomes the hard one (gRPC 1.51 stops accepting for good when it
// runs out of them), and writes to closed sockets give an error instead of a signal.
void PrepareProcess();

}  // namespace quantd

#endif  // QUANTD_SERVICE_PROCESS_H_

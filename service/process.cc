#include "service/process.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>

namespace quantd {
namespace {

uint64_t ResidentBytes() {
  unsigned long long total = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "re"); file != nullptr) {
    if (std::fscanf(file, "%llu %llu", &total, &resident) != 2) {
      resident = 0;
    }
    std::fclose(file);
  }
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

int OpenFiles() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) {
    return 0;
  }
  int count = -3;  // ".", ".." and the folder itself
  while (readdir(folder) != nullptr) {
    ++count;
  }
  closedir(folder);
  return count;
}

double StartTime() {
  static const double start = static_cast<double>(std::time(nullptr));
  return start;
}

}  // namespace

ProcessFacts ReadProcessFacts() {
  ProcessFacts facts;
  facts.resident_bytes = ResidentBytes();
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  facts.cpu_seconds = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                      1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  facts.open_files = OpenFiles();
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  facts.max_files = static_cast<double>(files.rlim_cur);
  facts.start_time_seconds = StartTime();
  return facts;
}

uint64_t PhysicalMemory() {
  struct sysinfo info {};
  return sysinfo(&info) == 0 ? static_cast<uint64_t>(info.totalram) * info.mem_unit : 0;
}

void PrepareProcess() {
  StartTime();
  signal(SIGPIPE, SIG_IGN);
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
}

}  // namespace quantd

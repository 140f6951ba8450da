// How many CPUs this process may really use.
#ifndef QUANTD_CORE_CPU_QUOTA_H_
#define QUANTD_CORE_CPU_QUOTA_H_

#include <cstdint>
#include <optional>

namespace quantd {

// min(scheduler affinity, ceil(cgroup quota / period)), at least 1. Reads cgroup v2 (cpu.max) and
// v1 (cpu.cfs_quota_us) up the whole tree, because nproc and libgomp ignore quotas.
int AvailableCpus();

// The tightest memory limit of the cgroup tree in bytes; nullopt when there is none.
std::optional<uint64_t> CgroupMemoryLimit();

}  // namespace quantd

#endif  // QUANTD_CORE_CPU_QUOTA_H_

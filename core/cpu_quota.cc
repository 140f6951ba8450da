#include "core/cpu_quota.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> ReadLine(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// The cgroup folder of this process under `mount` for the given v1 controller ("" means v2).
std::optional<fs::path> CgroupFolder(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  const fs::path mount = controller.empty() ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (fields.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(fields[1], ',');
    const bool match = controller.empty()
                           ? fields[1].empty()
                           : std::count(controllers.begin(), controllers.end(), controller) > 0;
    if (!match) continue;
    // Inside a container the path may be the host's; then the mount itself is our cgroup.
    const fs::path folder = mount / fs::path(fields[2]).relative_path();
    return fs::exists(folder) ? folder : mount;
  }
  return std::nullopt;
}

// Calls `visit` for the folder and each of its parents up to the cgroup mount.
template <class F>
void WalkUp(fs::path folder, F visit) {
  while (folder.string().rfind("/sys/fs/cgroup", 0) == 0) {
    visit(folder);
    if (folder == "/sys/fs/cgroup") break;
    folder = folder.parent_path();
  }
}

std::optional<double> QuotaV2(const fs::path& folder) {
  const auto line = ReadLine(folder / "cpu.max");
  if (!line) return std::nullopt;
  const std::vector<std::string> fields = absl::StrSplit(*line, ' ');
  double quota, period;
  if (fields.size() != 2 || !absl::SimpleAtod(fields[0], &quota) ||
      !absl::SimpleAtod(fields[1], &period) || period <= 0) {
    return std::nullopt;
  }
  return quota / period;
}

std::optional<double> QuotaV1(const fs::path& folder) {
  const auto quota_line = ReadLine(folder / "cpu.cfs_quota_us");
  const auto period_line = ReadLine(folder / "cpu.cfs_period_us");
  double quota, period;
  if (!quota_line || !period_line || !absl::SimpleAtod(*quota_line, &quota) ||
      !absl::SimpleAtod(*period_line, &period) || quota <= 0 || period <= 0) {
    return std::nullopt;
  }
  return quota / period;
}

}  // namespace

int AvailableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  double cpus = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  const auto tighten = [&cpus](std::optional<double> quota) {
    if (quota) cpus = std::min(cpus, std::ceil(*quota));
  };
  if (const auto folder = CgroupFolder("")) {
    WalkUp(*folder, [&](const fs::path& path) { tighten(QuotaV2(path)); });
  }
  if (const auto folder = CgroupFolder("cpu")) {
    WalkUp(*folder, [&](const fs::path& path) { tighten(QuotaV1(path)); });
  }
  return std::max(1, static_cast<int>(cpus));
}

std::optional<uint64_t> CgroupMemoryLimit() {
  std::optional<uint64_t> limit;
  const auto tighten = [&limit](const fs::path& file) {
    const auto line = ReadLine(file);
    uint64_t bytes;
    // v1 spells "no limit" as a number near 2^63.
    if (line && absl::SimpleAtoi(*line, &bytes) && bytes < (uint64_t{1} << 60)) {
      limit = std::min(limit.value_or(bytes), bytes);
    }
  };
  if (const auto folder = CgroupFolder("")) {
    WalkUp(*folder, [&](const fs::path& path) { tighten(path / "memory.max"); });
  }
  if (const auto folder = CgroupFolder("memory")) {
    WalkUp(*folder, [&](const fs::path& path) { tighten(path / "memory.limit_in_bytes"); });
  }
  return limit;
}

}  // namespace quantd

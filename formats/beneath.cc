#include "formats/beneath.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "formats/disk_wait.h"
#include "formats/escaped_name.h"
#include "formats/io_error.h"

namespace quantd {
namespace {

constexpr int kMaxDepth = 16;

int OpenRetrying(int folder_fd, const char* name, int flags, unsigned mode) {
  int fd;
  do {
    fd = openat(folder_fd, name, flags, mode);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

// Unlinks files. Large ones stay open until the end, so that no unlink waits for the file system to
// free what they take, nor for pages that are on their way to the disk.
class Unlinker {
 public:
  Unlinker() = default;
  Unlinker(const Unlinker&) = delete;
  Unlinker& operator=(const Unlinker&) = delete;
  ~Unlinker() {
    if (held_.empty()) return;
    const auto deadline = std::chrono::steady_clock::now() + kMoment;
    const auto close_all = [held = std::move(held_)] {
      for (const int fd : held) close(fd);
    };
    (void)WaitForDisk(close_all, [&] { return std::chrono::steady_clock::now() > deadline; });
  }

  // As unlinkat.
  int Unlink(int folder_fd, const std::string& name) {
    const int fd = OpenRetrying(folder_fd, name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    struct stat info;
    const bool large = fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
                       info.st_size >= kLarge && held_.size() < kMostHeld;
    const int result = unlinkat(folder_fd, name.c_str(), 0);
    const int error = errno;
    if (large && result == 0) {
      held_.push_back(fd);
    } else if (fd >= 0) {
      close(fd);
    }
    errno = error;
    return result;
  }

 private:
  static constexpr off_t kLarge = off_t{64} << 20;
  static constexpr size_t kMostHeld = 256;
  static constexpr std::chrono::milliseconds kMoment{200};

  std::vector<int> held_;
};

absl::Status RemoveContentsAtDepth(int folder_fd, absl::string_view display_name, int depth,
                                   Unlinker& unlinker);

absl::Status RemoveTreeAtDepth(int folder_fd, const std::string& name,
                               absl::string_view display_name, int depth, Unlinker& unlinker) {
  if (unlinker.Unlink(folder_fd, name) == 0) return absl::OkStatus();
  if (errno != EISDIR && errno != EPERM) return IoError(errno, "cannot remove", display_name);
  const int fd = OpenBeneath(folder_fd, name, O_RDONLY | O_DIRECTORY);
  if (fd < 0) return IoError(errno, "cannot remove", display_name);
  const absl::Status contents = RemoveContentsAtDepth(fd, display_name, depth + 1, unlinker);
  close(fd);
  RETURN_IF_ERROR(contents);
  if (unlinkat(folder_fd, name.c_str(), AT_REMOVEDIR) != 0) {
    return IoError(errno, "cannot remove", display_name);
  }
  return absl::OkStatus();
}

absl::Status RemoveContentsAtDepth(int folder_fd, absl::string_view display_name, int depth,
                                   Unlinker& unlinker) {
  if (depth > kMaxDepth) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot remove '", display_name, "': folders are nested more than ", kMaxDepth, " deep"));
  }
  absl::Status first_error;
  for (const std::string& entry : EntriesOf(folder_fd)) {
    first_error.Update(RemoveTreeAtDepth(folder_fd, entry, display_name, depth, unlinker));
  }
  return first_error;
}

}  // namespace

absl::Status CheckFileName(absl::string_view name) {
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name.size() > 255 || name.front() == '.' || !characters_ok) {
    return absl::InvalidArgumentError(absl::StrCat(
        "file name ", Quoted(name),
        " is not allowed: expected 1 to 255 of A-Z a-z 0-9 . _ - without a leading dot"));
  }
  return absl::OkStatus();
}

int OpenBeneath(int folder_fd, const std::string& name, int flags, unsigned mode) {
  static std::atomic<bool> have_openat2{true};
  flags |= O_CLOEXEC | O_NOFOLLOW | O_NOCTTY;
  if (name.empty() || name.find('/') != std::string::npos || name == "." || name == ".." ||
      name.find('\0') != std::string::npos) {
    errno = ENOENT;
    return -1;
  }
  if (have_openat2.load(std::memory_order_relaxed)) {
    open_how how = {};
    how.flags = static_cast<uint64_t>(flags);
    how.mode = mode;
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
    long fd;
    do {
      fd = syscall(SYS_openat2, folder_fd, name.c_str(), &how, sizeof(how));
    } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM && errno != EINVAL && errno != E2BIG)) {
      return static_cast<int>(fd);
    }
    if (errno == ENOSYS) have_openat2.store(false, std::memory_order_relaxed);
  }
  return OpenRetrying(folder_fd, name.c_str(), flags, mode);
}

std::vector<std::string> EntriesOf(int folder_fd) {
  std::vector<std::string> names;
  // A descriptor of its own, so that concurrent listings do not share one read position.
  const int fd = OpenRetrying(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (fd < 0) return names;
  DIR* stream = fdopendir(fd);
  if (stream == nullptr) {
    close(fd);
    return names;
  }
  while (const dirent* entry = readdir(stream)) {
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  closedir(stream);
  return names;
}

absl::Status RemoveTree(int folder_fd, const std::string& name, absl::string_view display_name) {
  Unlinker unlinker;
  return RemoveTreeAtDepth(folder_fd, name, display_name, 0, unlinker);
}

absl::Status RemoveFileBeneath(int folder_fd, const std::string& name,
                               absl::string_view display_name) {
  Unlinker unlinker;
  if (unlinker.Unlink(folder_fd, name) == 0) return absl::OkStatus();
  return IoError(errno, "cannot remove", display_name);
}

absl::Status RemoveContents(int folder_fd, absl::string_view display_name) {
  Unlinker unlinker;
  return RemoveContentsAtDepth(folder_fd, display_name, 0, unlinker);
}

}  // namespace quantd

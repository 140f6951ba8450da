#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/atomic_output.h"
#include "formats/disk_wait.h"
#include "formats/io_error.h"

namespace quantd {

OutputFile::OutputFile(int fd, std::string display_name, StopRequest stopped)
    : fd_(fd), name_(std::move(display_name)), stopped_(std::move(stopped)) {
  struct stat info;
  if (fstat(fd_, &info) == 0) size_ = static_cast<uint64_t>(info.st_size);
}

OutputFile::~OutputFile() { close(fd_); }

absl::Status OutputFile::Append(std::span<const std::byte> bytes) { return WriteAt(size_, bytes); }

absl::Status OutputFile::WriteAt(uint64_t offset, std::span<const std::byte> bytes) {
  // A megabyte takes long only where the disk is far behind.
  constexpr size_t kSlice = size_t{1} << 20;
  while (!bytes.empty()) {
    RETURN_IF_ERROR(CheckStopped(stopped_));
    const ssize_t written =
        pwrite(fd_, bytes.data(), std::min(bytes.size(), kSlice), static_cast<off_t>(offset));
    if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (written < 0) return WriteError(errno, "cannot write", name_, fd_, bytes.size());
    if (written == 0) return WriteError(ENOSPC, "cannot write", name_, fd_, bytes.size());
    offset += static_cast<uint64_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
    size_ = std::max(size_, offset);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::ReadAt(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = pread(fd_, out.data(), out.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, "cannot read", name_);
    if (got == 0) {
      return absl::DataLossError(absl::StrCat("'", name_, "' ends at byte ", offset, ", ",
                                              out.size(), " bytes too early"));
    }
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Truncate(uint64_t size) {
  int result;
  do {
    result = ftruncate(fd_, static_cast<off_t>(size));
  } while (result != 0 && errno == EINTR);
  if (result != 0) return IoError(errno, "cannot cut", name_);
  size_ = size;
  return absl::OkStatus();
}

absl::Status OutputFile::Sync() {
  const int error = SyncOrStop(fd_, stopped_);
  if (error == ECANCELED) return absl::CancelledError("the operation was cancelled");
  if (error != 0) return WriteError(error, "cannot sync", name_, fd_, size_);
  return absl::OkStatus();
}

}  // namespace quantd

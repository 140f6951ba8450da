#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/beneath.h"
#include "formats/escaped_name.h"
#include "formats/io_error.h"
#include "formats/model_root.h"

namespace quantd {
namespace {

std::string DisplayName(const std::string& folder, absl::string_view name) {
  if (folder.empty()) return EscapedName(name);
  return absl::StrCat(folder, "/", EscapedName(name));
}

constexpr size_t kSlice = size_t{4} << 20;  // tenths of a second from a slow disk

// One message for whatever is not a readable regular file, so that nobody can probe the disk.
absl::Status NotThere(int error, absl::string_view display_name) {
  if (error == EMFILE || error == ENFILE || error == ENOMEM || error == EIO) {
    return IoError(error, "cannot open", display_name);
  }
  return absl::NotFoundError(absl::StrCat("'", display_name, "' not found"));
}

}  // namespace

File::File(int fd, std::string display_name, uint64_t size, StopRequest stopped)
    : fd_(fd), name_(std::move(display_name)), size_(size), stopped_(std::move(stopped)) {
  struct stat info;
  if (fstat(fd_, &info) == 0) modified_ = info.st_mtim;
}

File::~File() { close(fd_); }

absl::Status File::CheckUnchanged() const {
  struct stat info;
  if (fstat(fd_, &info) != 0) return IoError(errno, "cannot read", name_);
  if (static_cast<uint64_t>(info.st_size) != size_ || info.st_mtim.tv_sec != modified_.tv_sec ||
      info.st_mtim.tv_nsec != modified_.tv_nsec) {
    return absl::DataLossError(absl::StrCat("'", name_, "' was changed while it was in use (",
                                            size_, " bytes when opened, ", info.st_size,
                                            " now); load or start again"));
  }
  return absl::OkStatus();
}

absl::Status File::ReadAt(uint64_t offset, size_t bytes, std::byte* out) const {
  if (offset > size_ || bytes > size_ - offset) {
    return absl::OutOfRangeError(absl::StrCat("'", name_, "': read of ", bytes, " bytes at ",
                                              offset, " is past the end at ", size_));
  }
  while (bytes > 0) {
    RETURN_IF_ERROR(CheckStopped(stopped_));
    const ssize_t got = pread(fd_, out, std::min(bytes, kSlice), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return IoError(errno, "cannot read", name_);
    if (got == 0) {
      return absl::DataLossError(absl::StrCat("'", name_, "' was cut to ", offset,
                                              " bytes while it was in use (", size_,
                                              " bytes when opened)"));
    }
    offset += static_cast<uint64_t>(got);
    out += got;
    bytes -= static_cast<size_t>(got);
  }
  return CheckUnchanged();
}

absl::StatusOr<std::string> File::ReadAll(size_t limit) const {
  if (size_ > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat("'", name_, "' has ", size_, " bytes; at most ", limit, " are read"));
  }
  std::string content(size_, '\0');
  RETURN_IF_ERROR(ReadAt(0, content.size(), reinterpret_cast<std::byte*>(content.data())));
  return content;
}

Directory::Directory(int fd, std::string display_name, StopRequest stopped)
    : fd_(fd), name_(std::move(display_name)), stopped_(std::move(stopped)) {}

Directory::~Directory() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<std::shared_ptr<const File>> Directory::OpenFile(absl::string_view name) const {
  RETURN_IF_ERROR(CheckFileName(name));
  const std::string display = DisplayName(name_, name);
  const int fd = OpenBeneath(fd_, std::string(name), O_RDONLY | O_NONBLOCK);
  if (fd < 0) return NotThere(errno, display);
  struct stat info;
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    return NotThere(ENOENT, display);
  }
  return std::make_shared<const File>(fd, display, static_cast<uint64_t>(info.st_size), stopped_);
}

absl::StatusOr<std::shared_ptr<const Directory>> Directory::OpenFolder(
    absl::string_view name) const {
  RETURN_IF_ERROR(CheckFileName(name));
  const std::string display = DisplayName(name_, name);
  const int fd = OpenBeneath(fd_, std::string(name), O_RDONLY | O_DIRECTORY);
  if (fd < 0) return NotThere(errno, display);
  return std::make_shared<const Directory>(fd, display, stopped_);
}

bool Directory::Contains(absl::string_view name) const {
  if (!CheckFileName(name).ok()) return false;
  struct stat info;
  return fstatat(fd_, std::string(name).c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISREG(info.st_mode);
}

std::vector<std::string> Directory::List() const {
  std::vector<std::string> names = EntriesOf(fd_);
  std::erase_if(names, [](const std::string& name) { return name.front() == '.'; });
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace quantd

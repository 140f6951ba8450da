#include "formats/io_error.h"

#include <sys/statvfs.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      return absl::StatusCode::kResourceExhausted;
    case EIO:
    case ESTALE:
    case EBADMSG:
      return absl::StatusCode::kDataLoss;
    case ENOENT:
    case ELOOP:
    case ENOTDIR:
    case ENXIO:
      return absl::StatusCode::kNotFound;
    case EEXIST:
      return absl::StatusCode::kAlreadyExists;
    default:
      return absl::StatusCode::kFailedPrecondition;
  }
}

}  // namespace

absl::Status IoError(int error, absl::string_view doing, absl::string_view name) {
  return absl::Status(CodeOf(error), absl::StrCat(doing, " '", name,
                                                  "': ", std::generic_category().message(error)));
}

absl::Status WriteError(int error, absl::string_view doing, absl::string_view name, int fd,
                        uint64_t needed) {
  if (error != ENOSPC && error != EDQUOT) return IoError(error, doing, name);
  return absl::ResourceExhaustedError(
      absl::StrCat(doing, " '", name, "': ", needed, " bytes needed, ", FreeBytesOf(fd),
                   " bytes free on the disk of the model root; free some space and try again"));
}

uint64_t FreeBytesOf(int fd) {
  struct statvfs info;
  if (fstatvfs(fd, &info) != 0) return 0;
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace quantd

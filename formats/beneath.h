// Opening and removing entries of a folder without ever leaving it.
#ifndef QUANTD_FORMATS_BENEATH_H_
#define QUANTD_FORMATS_BENEATH_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

// `[A-Za-z0-9._-]{1,255}` without a leading dot: a file of a checkpoint. INVALID_ARGUMENT.
absl::Status CheckFileName(absl::string_view name);

// openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS) of the single component
// `name`, or openat(O_NOFOLLOW) where the kernel or a seccomp filter lacks openat2, which for a
// single component confines as well. Always O_CLOEXEC. Returns -1 and errno like open.
int OpenBeneath(int folder_fd, const std::string& name, int flags, unsigned mode = 0);

// All entry names of the folder except "." and "..", unsorted; hidden ones included.
std::vector<std::string> EntriesOf(int folder_fd);

// Unlinks the file or folder tree `name`. Symlinks are removed, never followed. NOT_FOUND when it
// is not there; at most 16 levels deep. Names go at once; the blocks of large files, which take up
// to a second per gigabyte, are freed by a thread of their own where that is not done in a moment.
absl::Status RemoveTree(int folder_fd, const std::string& name, absl::string_view display_name);

// The file `name`, in the same way.
absl::Status RemoveFileBeneath(int folder_fd, const std::string& name,
                               absl::string_view display_name);

// Everything inside an open folder.
absl::Status RemoveContents(int folder_fd, absl::string_view display_name);

}  // namespace quantd

#endif  // QUANTD_FORMATS_BENEATH_H_

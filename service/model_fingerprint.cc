#include "service/model_fingerprint.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"

namespace quantd {

std::string FingerprintOf(const ModelRoot& root, const std::string& name) {
  std::string out;
  const auto append = [&out](int fd, const std::string& file) {
    struct stat info {};
    if (fstatat(fd, file.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
      absl::StrAppend(&out, file, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec,
                      ".", info.st_mtim.tv_nsec, ";");
    }
  };
  if (const auto folder = root.OpenFolder(name); folder.ok()) {
    for (const std::string& file : (*folder)->List()) {
      append((*folder)->fd(), file);
    }
  } else {
    append(root.directory().fd(), name);
  }
  return out;
}

}  // namespace quantd

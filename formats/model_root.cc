#include "formats/model_root.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/beneath.h"
#include "formats/escaped_name.h"
#include "formats/gguf/split_name.h"
#include "formats/io_error.h"

namespace quantd {
namespace {

absl::Status ModelNotFound(absl::string_view name) {
  return absl::NotFoundError(absl::StrCat("model ", Quoted(name), " not found in the model root"));
}

bool IsModelFile(absl::string_view name) {
  return absl::EndsWith(name, ".gguf") || absl::EndsWith(name, ".safetensors");
}

// "-00002-of-00003.gguf" and later: parts that belong to a first one.
bool IsLaterSplitPart(absl::string_view name) {
  const auto split = ParseGgufSplitName(name);
  return split && split->part > 1;
}

bool HoldsCheckpoint(const Directory& folder) {
  if (folder.Contains("config.json")) return true;
  int gguf_files = 0;
  for (const std::string& name : folder.List()) {
    if (absl::EndsWith(name, ".gguf") && !IsLaterSplitPart(name) && folder.Contains(name)) {
      ++gguf_files;
    }
  }
  return gguf_files == 1;
}

}  // namespace

absl::Status CheckModelName(absl::string_view name) {
  const bool characters_ok = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
  });
  if (name.empty() || name.size() > 128 || !absl::ascii_isalnum(name.front()) || !characters_ok) {
    return absl::InvalidArgumentError(absl::StrCat("name ", Quoted(name),
                                                   " is not allowed: expected a letter or digit, "
                                                   "then up to 127 of A-Z a-z 0-9 . _ -, naming a "
                                                   "folder or file directly in the model root"));
  }
  return absl::OkStatus();
}

ModelRoot::ModelRoot(int fd, StopRequest stopped) : directory_(fd, "", std::move(stopped)) {}

absl::StatusOr<std::shared_ptr<ModelRoot>> ModelRoot::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the model root cannot be opened: ",
                     IoError(errno, "cannot open", "model root").message()));
  }
  return std::make_shared<ModelRoot>(fd);
}

absl::StatusOr<std::shared_ptr<const ModelRoot>> ModelRoot::StoppedBy(StopRequest stopped) const {
  const int fd = fcntl(directory_.fd(), F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return IoError(errno, "cannot open", "model root");
  return std::make_shared<const ModelRoot>(fd, std::move(stopped));
}

absl::StatusOr<ModelRoot::EntryKind> ModelRoot::Find(absl::string_view name) const {
  const auto folder = OpenFolder(name);
  if (folder.ok()) return EntryKind::kFolder;
  if (!absl::IsNotFound(folder.status())) return folder.status();
  if (!IsModelFile(name)) return ModelNotFound(name);
  const auto file = OpenFile(name);
  if (!file.ok()) return file.status();
  return EntryKind::kFile;
}

absl::StatusOr<std::shared_ptr<const Directory>> ModelRoot::OpenFolder(
    absl::string_view name) const {
  RETURN_IF_ERROR(CheckModelName(name));
  auto folder = directory_.OpenFolder(name);
  if (absl::IsNotFound(folder.status())) return ModelNotFound(name);
  return folder;
}

absl::StatusOr<std::shared_ptr<const File>> ModelRoot::OpenFile(absl::string_view name) const {
  RETURN_IF_ERROR(CheckModelName(name));
  auto file = directory_.OpenFile(name);
  if (absl::IsNotFound(file.status())) return ModelNotFound(name);
  return file;
}

std::vector<ModelRoot::Entry> ModelRoot::List() const {
  std::vector<Entry> entries;
  for (const std::string& name : directory_.List()) {
    if (!CheckModelName(name).ok()) continue;
    if (const auto folder = directory_.OpenFolder(name); folder.ok()) {
      if (HoldsCheckpoint(**folder)) entries.push_back({name, EntryKind::kFolder});
    } else if (absl::EndsWith(name, ".gguf") && !IsLaterSplitPart(name) &&
               directory_.Contains(name)) {
      entries.push_back({name, EntryKind::kFile});
    }
  }
  return entries;
}

absl::Status ModelRoot::Remove(absl::string_view name) const {
  RETURN_IF_ERROR(Find(name).status());
  // A hidden folder of our own, so that the name is free at once and a crash leaves only what
  // SweepPartialOutputs takes away.
  std::string holder;
  for (int attempt = 0;; ++attempt) {
    holder = absl::StrCat(".", name, ".removed", attempt);
    if (mkdirat(directory_.fd(), holder.c_str(), 0750) == 0) break;
    if (errno != EEXIST || attempt == 1000) return IoError(errno, "cannot remove", name);
  }
  const std::string inside = absl::StrCat(holder, "/removed");
  absl::Status status;
  if (renameat(directory_.fd(), std::string(name).c_str(), directory_.fd(), inside.c_str()) != 0) {
    status = errno == ENOENT ? ModelNotFound(name) : IoError(errno, "cannot remove", name);
  } else if (fsync(directory_.fd()) != 0 && errno != EINVAL) {
    status = IoError(errno, "cannot remove", name);
  }
  status.Update(RemoveTree(directory_.fd(), holder, name));
  return status;
}

uint64_t ModelRoot::FreeBytes() const { return FreeBytesOf(directory_.fd()); }

}  // namespace quantd

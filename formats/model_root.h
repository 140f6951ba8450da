// The folder that quantd may touch. Everything is opened relative to its file descriptor with
// openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS), so no name can lead out of it.
#ifndef QUANTD_FORMATS_MODEL_ROOT_H_
#define QUANTD_FORMATS_MODEL_ROOT_H_

#include <time.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/status.h"
#include "core/stop_request.h"

namespace quantd {

// An open file. Reads never run past its end; a file that was changed or cut meanwhile gives
// DATA_LOSS (a file that was deleted or replaced by rename reads on).
class File {
 public:
  // `stopped` is asked every few MB of a read.
  File(int fd, std::string display_name, uint64_t size, StopRequest stopped = {});
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  const std::string& name() const { return name_; }  // relative to the root, escaped; for messages
  uint64_t size() const { return size_; }
  int fd() const { return fd_; }

  // Exactly `bytes` bytes at `offset` into `out` (loops over short reads and EINTR).
  absl::Status ReadAt(uint64_t offset, size_t bytes, std::byte* out) const;
  // Whole content; RESOURCE_EXHAUSTED above `limit` bytes.
  absl::StatusOr<std::string> ReadAll(size_t limit) const;
  // DATA_LOSS when size or modification time are no longer those seen at opening.
  absl::Status CheckUnchanged() const;

 private:
  int fd_;
  std::string name_;
  uint64_t size_;
  StopRequest stopped_;
  timespec modified_ = {};
};

// A folder inside the root (or the root itself), held open.
class Directory {
 public:
  // Files and folders opened through it take `stopped` over.
  explicit Directory(int fd, std::string display_name, StopRequest stopped = {});
  ~Directory();
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  const std::string& name() const { return name_; }
  int fd() const { return fd_; }
  const StopRequest& stopped() const { return stopped_; }

  // A regular file directly inside. Never blocks on a FIFO or device. NOT_FOUND when absent, not
  // regular, a symlink or not readable; INVALID_ARGUMENT for a name that is a path, hidden or holds
  // other characters than A-Z a-z 0-9 . _ -
  absl::StatusOr<std::shared_ptr<const File>> OpenFile(absl::string_view name) const;
  // A folder directly inside ("1_Pooling"), with the same errors.
  absl::StatusOr<std::shared_ptr<const Directory>> OpenFolder(absl::string_view name) const;
  bool Contains(absl::string_view name) const;
  // Names of entries, sorted; hidden ones left out.
  std::vector<std::string> List() const;

 private:
  int fd_;
  std::string name_;
  StopRequest stopped_;
};

// `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`, as every model and output name must be; INVALID_ARGUMENT.
absl::Status CheckModelName(absl::string_view name);

class ModelRoot {
 public:
  // Opens `path`; FAILED_PRECONDITION when it is not a readable folder.
  static absl::StatusOr<std::shared_ptr<ModelRoot>> Open(const std::string& path);
  // The same folder for one job: long reads of its files, and writes and syncs of outputs made in
  // it, end with CANCELLED soon after `stopped` says so.
  absl::StatusOr<std::shared_ptr<const ModelRoot>> StoppedBy(StopRequest stopped) const;

  enum class EntryKind { kFolder, kFile };
  struct Entry {
    std::string name;
    EntryKind kind;
  };

  // The model `name`: a folder, or a `.gguf` (or bare `.safetensors`) file directly in the root.
  // INVALID_ARGUMENT for a name that CheckModelName refuses; NOT_FOUND, with one message, for
  // everything that is not there, a symlink, not readable or not a model.
  absl::StatusOr<EntryKind> Find(absl::string_view name) const;
  absl::StatusOr<std::shared_ptr<const Directory>> OpenFolder(absl::string_view name) const;
  absl::StatusOr<std::shared_ptr<const File>> OpenFile(absl::string_view name) const;
  // Models, sorted: folders that hold a config.json or exactly one `.gguf` file, and `.gguf` files.
  // Of a split GGUF only the first part is listed.
  std::vector<Entry> List() const;
  // Takes the model away at once by a rename, then deletes it. Whoever has it open reads on.
  absl::Status Remove(absl::string_view name) const;

  uint64_t FreeBytes() const;
  const Directory& directory() const { return directory_; }

  explicit ModelRoot(int fd, StopRequest stopped = {});

 private:
  Directory directory_;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_MODEL_ROOT_H_

// An output that appears whole or not at all.
//
// Work happens in the hidden folder `.NAME.partial` beside the output (never on another file
// system); Commit syncs every file, the folder, renames it to NAME and syncs the root. An old
// version is exchanged for the new one in one rename. A second writer of the same name is refused
// by a lock (flock on the partial folder) that holds between processes and between threads. Files
// are 0640 and folders 0750, less the umask.
#ifndef QUANTD_FORMATS_ATOMIC_OUTPUT_H_
#define QUANTD_FORMATS_ATOMIC_OUTPUT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/stop_request.h"
#include "formats/model_root.h"

namespace quantd {

// A file being written inside a partial folder. Short writes and EINTR are looped over; ENOSPC is
// RESOURCE_EXHAUSTED with needed and free bytes, EIO is DATA_LOSS.
class OutputFile {
 public:
  // `fd` is open for reading and writing; appending goes on at its present end. Soon after
  // `stopped` says so, writes and syncs are CANCELLED, with part of it done.
  OutputFile(int fd, std::string display_name, StopRequest stopped = {});
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  absl::Status Append(std::span<const std::byte> bytes);
  absl::Status WriteAt(uint64_t offset, std::span<const std::byte> bytes);
  // Bytes written before; DATA_LOSS when they are not there.
  absl::Status ReadAt(uint64_t offset, std::span<std::byte> out) const;
  absl::Status Truncate(uint64_t size);
  // Waits until the data are on the disk. After a failure the file must not be used any more: the
  // kernel may have dropped the pages.
  absl::Status Sync();
  uint64_t size() const { return size_; }  // where Append goes next
  const std::string& name() const { return name_; }
  int fd() const { return fd_; }

 private:
  int fd_;
  std::string name_;
  StopRequest stopped_;
  uint64_t size_ = 0;
};

class AtomicOutput {
 public:
  enum class Kind { kFolder, kSingleFile };  // kSingleFile: commits the one file `NAME` (a .gguf)
  struct Options {
    Kind kind = Kind::kFolder;
    bool overwrite = false;  // else ALREADY_EXISTS when the output is there
    bool keep_partial =
        false;  // continue in an existing partial folder (resume) instead of a new one
    uint64_t expected_bytes = 0;  // checked against free space at once
  };
  // ABORTED when another writer holds the name. What the root says of stopping (StoppedBy) holds
  // for the files and for Commit, until the output is there.
  static absl::StatusOr<std::unique_ptr<AtomicOutput>> Create(std::shared_ptr<const ModelRoot> root,
                                                              absl::string_view name,
                                                              const Options& options);
  // Removes the partial folder unless committed or kept.
  virtual ~AtomicOutput() = default;

  // Creates (or, when resuming, opens) a file inside the partial folder. Names, here and below, are
  // as CheckFileName in formats/beneath.h has them, with at most one folder in front
  // ("1_Pooling/config.json"), which is made.
  virtual absl::StatusOr<std::unique_ptr<OutputFile>> CreateFile(absl::string_view name) = 0;
  virtual absl::Status WriteFile(absl::string_view name, absl::string_view content) = 0;
  virtual absl::Status RenameFile(absl::string_view from, absl::string_view to) = 0;
  virtual absl::Status RemoveFile(absl::string_view name) = 0;
  // A file of the partial folder for reading (journals); NOT_FOUND when absent.
  virtual absl::StatusOr<std::shared_ptr<const File>> OpenFile(absl::string_view name) const = 0;
  // Names of files and folders directly in the partial folder, sorted.
  virtual std::vector<std::string> List() const = 0;

  // ALREADY_EXISTS when the output appeared meanwhile and `overwrite` is not set. After an error,
  // only the destructor is left to call.
  virtual absl::Status Commit() = 0;
  // Leaves the partial folder for a later resume when this object goes.
  virtual void KeepPartial() = 0;
};

// The file in a partial folder that makes it resumable.
inline constexpr char kJournalFile[] = "journal";

// Removes partial folders that no live writer holds and that have no journal to resume from, and
// what an interrupted removal left. Returns the names of outputs that can be resumed, sorted.
std::vector<std::string> SweepPartialOutputs(const ModelRoot& root);

}  // namespace quantd

#endif  // QUANTD_FORMATS_ATOMIC_OUTPUT_H_

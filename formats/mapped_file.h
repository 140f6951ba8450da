// A read-only memory mapping that survives the file being cut under it.
#ifndef QUANTD_FORMATS_MAPPED_FILE_H_
#define QUANTD_FORMATS_MAPPED_FILE_H_

#include <cstddef>
#include <memory>
#include <span>

#include "core/shared_tensor.h"
#include "core/status.h"
#include "formats/model_root.h"

namespace quantd {

// Maps a whole file. Touching a page that is no longer in the file raises SIGBUS; for our mappings
// the handler puts zeros there and remembers it, so the process lives, and CheckIntact says
// DATA_LOSS. A SIGBUS from elsewhere goes to whatever handler was there before.
class MappedFile {
 public:
  // RESOURCE_EXHAUSTED when the system cannot map it.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Map(std::shared_ptr<const File> file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // To be asked after the bytes were used: DATA_LOSS when some of them may not have been the
  // file's.
  absl::Status CheckIntact() const;

  // Takes the pages of a part out of this process's memory; they are the file's again when they are
  // touched.
  void Release(std::span<const std::byte> part) const;

 private:
  MappedFile(std::shared_ptr<const File> file, std::span<const std::byte> bytes, int slot)
      : file_(std::move(file)), bytes_(bytes), slot_(slot) {}

  std::shared_ptr<const File> file_;
  std::span<const std::byte> bytes_;
  int slot_;  // in the table that the signal handler reads; -1 for an empty file
};

// A view into the mapping, whose pages are released with its owner.
SharedTensor Lend(std::shared_ptr<const MappedFile> mapping, TensorView view);

// Starts reading a part of a mapping from the disk, and hardly waits for it.
void ReadAhead(std::span<const std::byte> part);
// Reads it, so that the bytes are there when they are touched (where the kernel can, 5.14).
void Populate(std::span<const std::byte> part);

}  // namespace quantd

#endif  // QUANTD_FORMATS_MAPPED_FILE_H_

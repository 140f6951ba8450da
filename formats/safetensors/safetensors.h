// safetensors: u64 header length, JSON header, tensor data. Reading checks every rule of the format
// (the Rust crate `safetensors` 0.4 is the reference): ranges tile the data exactly, sizes match
// shape x dtype, no duplicate names, strict JSON of bounded depth, header of at most 100 MB.
#ifndef QUANTD_FORMATS_SAFETENSORS_SAFETENSORS_H_
#define QUANTD_FORMATS_SAFETENSORS_SAFETENSORS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/shared_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "formats/atomic_output.h"
#include "formats/model_root.h"

namespace quantd {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t begin = 0;  // byte range within the data section
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in file order of their data
  std::map<std::string, std::string> metadata;
  uint64_t data_offset = 0;  // of the data section in the file
};

// Parses the start of a file of `file_size` bytes. `bytes` holds at least the header; the fuzz
// target. INVALID_ARGUMENT for a broken header, UNIMPLEMENTED for a real dtype we lack.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::span<const std::byte> bytes,
                                                         uint64_t file_size);

class SafetensorsReader {
 public:
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> Open(std::shared_ptr<const File> file);
  // From bytes in memory (uploads); the bytes are kept.
  static absl::StatusOr<std::unique_ptr<SafetensorsReader>> FromBytes(std::vector<std::byte> bytes);
  virtual ~SafetensorsReader() = default;

  virtual const SafetensorsHeader& header() const = 0;
  virtual const TensorInfo* Find(absl::string_view name) const = 0;
  // A copy of the tensor; NOT_FOUND by name, DATA_LOSS when the file shrank.
  virtual absl::StatusOr<Tensor> Read(absl::string_view name) const = 0;
  // A view into the mapped file, valid as long as the reader. Ask CheckIntact after using the
  // bytes: if the file was cut meanwhile they read as zeros.
  virtual absl::StatusOr<TensorView> View(absl::string_view name) const = 0;
  // The view with its check, and with an owner that releases the file's pages.
  virtual absl::StatusOr<SharedTensor> Lend(absl::string_view name) const = 0;
  // DATA_LOSS when the file was changed since it was opened.
  virtual absl::Status CheckIntact() const = 0;
};

// Streams tensors into one file. Data go out as they come; the header is written into space
// reserved in front (padded with blanks, which the format allows), so nothing is held in memory.
class SafetensorsWriter {
 public:
  // `header_reserve`: upper bound of the header's bytes; if it turns out too small, Finish moves
  // the data once.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Create(std::unique_ptr<OutputFile> file,
                                                                   uint64_t header_reserve);
  // Goes on with a file that an earlier writer of the same `header_reserve` left unfinished:
  // `written` are its tensors in order, and whatever follows them is cut off.
  static absl::StatusOr<std::unique_ptr<SafetensorsWriter>> Continue(
      std::unique_ptr<OutputFile> file, uint64_t header_reserve, std::vector<TensorInfo> written);
  virtual ~SafetensorsWriter() = default;
  // INVALID_ARGUMENT for a name written before or a size that does not fit the shape.
  virtual absl::Status Add(absl::string_view name, const TensorView& tensor) = 0;
  virtual absl::Status Finish(const std::map<std::string, std::string>& metadata) = 0;
  virtual uint64_t data_bytes() const = 0;
  virtual const std::vector<TensorInfo>& tensors() const = 0;
  virtual absl::Status Sync() = 0;
};

// Where a writer with this reserve puts the data section, until Finish may move it.
uint64_t SafetensorsDataOffset(uint64_t header_reserve);

// A whole small file at once (tensor-level requests), byte for byte what the Python package's
// save() gives. INVALID_ARGUMENT for a name that is not UTF-8 or appears twice.
absl::StatusOr<std::vector<std::byte>> SerializeSafetensors(
    const std::vector<std::pair<std::string, Tensor>>& tensors,
    const std::map<std::string, std::string>& metadata);

}  // namespace quantd

#endif  // QUANTD_FORMATS_SAFETENSORS_SAFETENSORS_H_

// GGUF v3 (and v2) container: metadata, tensor infos, block data. Source of truth: ggml's gguf.cpp
// and gguf-py 0.19. Knows block sizes, not what blocks mean (that is quantizers/codecs/gguf).
#ifndef QUANTD_FORMATS_GGUF_GGUF_H_
#define QUANTD_FORMATS_GGUF_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/shared_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "formats/atomic_output.h"
#include "formats/model_root.h"

namespace quantd {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ8_1 = 9,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kQ8_K = 15,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
  kNVFP4 = 40,
  kQ1_0 = 41,
  kQ2_0 = 42,
};

struct GgmlTypeInfo {
  GgmlType type;
  absl::string_view name;  // "Q4_K"
  int block_elements;
  int block_bytes;
};
// nullptr for ids that are unknown or removed.
const GgmlTypeInfo* FindGgmlType(uint32_t id);
const GgmlTypeInfo* FindGgmlType(absl::string_view name);

enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64,
};

// Arrays of arrays, which the format would allow, are refused: no writer makes them.
struct GgufArray {
  GgufValueType element_type = GgufValueType::kU8;
  // One of these is filled: integers (and bools), floats or strings.
  std::vector<int64_t> integers;  // u64 as two's complement
  std::vector<double> floats;
  std::vector<std::string> strings;
  size_t size() const { return integers.size() + floats.size() + strings.size(); }
};
struct GgufValue {
  GgufValueType type = GgufValueType::kU32;
  std::variant<int64_t, double, std::string, GgufArray> value;  // integers and bools as int64
};

// Metadata in file order; order and types survive a round trip.
class GgufMetadata {
 public:
  const GgufValue* Find(absl::string_view key) const;
  void Set(absl::string_view key, GgufValue value);  // replaces in place or appends
  void SetU32(absl::string_view key, uint32_t value);
  void SetF32(absl::string_view key, float value);
  void SetBool(absl::string_view key, bool value);
  void SetString(absl::string_view key, std::string value);
  void SetStrings(absl::string_view key, std::vector<std::string> values);
  void Erase(absl::string_view key);
  // Adds a key that is known to be new.
  void Append(std::string key, GgufValue value) {
    entries_.emplace_back(std::move(key), std::move(value));
  }
  const std::vector<std::pair<std::string, GgufValue>>& entries() const { return entries_; }

  // nullopt when absent; INVALID_ARGUMENT naming the key when of another kind. Integer takes every
  // integer type (not bool), Number those and floats.
  absl::StatusOr<std::optional<int64_t>> Integer(absl::string_view key) const;
  absl::StatusOr<std::optional<double>> Number(absl::string_view key) const;
  absl::StatusOr<std::optional<std::string>> String(absl::string_view key) const;
  absl::StatusOr<std::optional<bool>> Bool(absl::string_view key) const;
  // nullptr when absent.
  absl::StatusOr<const GgufArray*> Array(absl::string_view key, GgufValueType element_type) const;

 private:
  std::vector<std::pair<std::string, GgufValue>> entries_;
};

struct GgufTensorInfo {
  std::string name;
  GgmlType type = GgmlType::kF32;
  Shape shape;  // in torch order: [out, in] for a linear weight (the file stores it reversed)
  uint64_t offset = 0;  // within the data section
  uint64_t bytes = 0;
};

// Bytes of a tensor: blocks run along the last dimension. INVALID_ARGUMENT when a row is not a
// multiple of the block, a dimension is not positive, or the product overflows.
absl::StatusOr<uint64_t> GgufTensorBytes(GgmlType type, const Shape& shape);

struct GgufHeader {
  GgufMetadata metadata;
  std::vector<GgufTensorInfo> tensors;
  uint64_t alignment = 32;
  uint64_t data_offset = 0;
};

// INVALID_ARGUMENT for everything broken, UNIMPLEMENTED for versions other than 2 and 3 and for
// big-endian files; the fuzz target. `bytes` may be the start of the file as long as it holds the
// whole header; OUT_OF_RANGE when more of the file is needed. Every tensor is checked to lie inside
// the file, without overlaps. RESOURCE_EXHAUSTED for more than 4 million metadata elements.
absl::StatusOr<GgufHeader> ParseGgufHeader(std::span<const std::byte> bytes, uint64_t file_size);

class GgufReader {
 public:
  // INVALID_ARGUMENT for one part of a split model.
  static absl::StatusOr<std::unique_ptr<GgufReader>> Open(std::shared_ptr<const File> file);
  // All parts of a split model, in order, as one: the first part's metadata and everybody's
  // tensors, whose offsets are within their own part. INVALID_ARGUMENT when the parts do not say
  // that they belong together.
  static absl::StatusOr<std::unique_ptr<GgufReader>> OpenSplit(
      std::vector<std::shared_ptr<const File>> parts);
  virtual ~GgufReader() = default;
  virtual const GgufHeader& header() const = 0;
  virtual const GgufTensorInfo* Find(absl::string_view name) const = 0;
  // The raw blocks of a tensor; NOT_FOUND by name, DATA_LOSS when the file shrank.
  virtual absl::StatusOr<std::vector<std::byte>> Read(absl::string_view name) const = 0;
  // The blocks in the mapped file, valid as long as the reader. Ask CheckIntact after using them:
  // if the file was cut meanwhile they read as zeros.
  virtual absl::StatusOr<std::span<const std::byte>> View(absl::string_view name) const = 0;
  // The same as a tensor of bytes (U8), with its check and an owner that releases the file's pages.
  virtual absl::StatusOr<SharedTensor> Lend(absl::string_view name) const = 0;
  // DATA_LOSS when the file was changed since it was opened.
  virtual absl::Status CheckIntact() const = 0;
};

// Header first, then the tensors' blocks in the order of `tensors` (offsets and bytes are computed
// here). Writes version 3. A file that already holds the header and some tensors of an earlier,
// identical run is continued: Create rewrites the same header in place and leaves what follows.
class GgufWriter {
 public:
  // INVALID_ARGUMENT for names, shapes or an alignment that the reader would refuse.
  static absl::StatusOr<std::unique_ptr<GgufWriter>> Create(std::unique_ptr<OutputFile> file,
                                                            const GgufMetadata& metadata,
                                                            std::vector<GgufTensorInfo> tensors);
  virtual ~GgufWriter() = default;
  // With offsets and bytes filled.
  virtual const std::vector<GgufTensorInfo>& tensors() const = 0;
  // The next tensor's blocks; INVALID_ARGUMENT when name or size is not the announced one.
  virtual absl::Status Add(absl::string_view name, std::span<const std::byte> blocks) = 0;
  // The next tensor's blocks are in the file from an earlier run; goes past them. DATA_LOSS when
  // the file is too short for that.
  virtual absl::Status Skip(absl::string_view name) = 0;
  // FAILED_PRECONDITION when a tensor is missing.
  virtual absl::Status Finish() = 0;
};

}  // namespace quantd

#endif  // QUANTD_FORMATS_GGUF_GGUF_H_

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "formats/byte_cursor.h"
#include "formats/escaped_name.h"
#include "formats/gguf/gguf.h"

namespace quantd {
namespace {

class ByteAppender {
 public:
  template <class T>
  void Number(T value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof(T));
  }
  void String(absl::string_view text) {
    Number<uint64_t>(text.size());
    const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void Integer(GgufValueType type, int64_t value) {
    switch (type) {
      case GgufValueType::kU8:
      case GgufValueType::kI8:
      case GgufValueType::kBool:
        return Number(static_cast<uint8_t>(value));
      case GgufValueType::kU16:
      case GgufValueType::kI16:
        return Number(static_cast<uint16_t>(value));
      case GgufValueType::kU32:
      case GgufValueType::kI32:
        return Number(static_cast<uint32_t>(value));
      default:
        return Number(static_cast<uint64_t>(value));
    }
  }
  void Float(GgufValueType type, double value) {
    if (type == GgufValueType::kF64) return Number(value);
    Number(static_cast<float>(value));
  }
  void Array(const GgufArray& array) {
    Number(static_cast<uint32_t>(array.element_type));
    Number<uint64_t>(array.size());
    for (const std::string& text : array.strings) String(text);
    for (const double value : array.floats) Float(array.element_type, value);
    for (const int64_t value : array.integers) Integer(array.element_type, value);
  }
  void Value(const GgufValue& value) {
    Number(static_cast<uint32_t>(value.type));
    if (const auto* text = std::get_if<std::string>(&value.value)) return String(*text);
    if (const auto* array = std::get_if<GgufArray>(&value.value)) return Array(*array);
    if (const auto* number = std::get_if<double>(&value.value)) return Float(value.type, *number);
    Integer(value.type, std::get<int64_t>(value.value));
  }
  void PadTo(uint64_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
  }
  std::vector<std::byte> Take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

// Fills bytes and offsets; INVALID_ARGUMENT for what the reader would refuse.
absl::Status LayOut(uint64_t alignment, std::vector<GgufTensorInfo>& tensors) {
  absl::flat_hash_set<absl::string_view> names;
  uint64_t offset = 0;
  for (GgufTensorInfo& tensor : tensors) {
    if (tensor.name.empty() || tensor.name.size() > 64 || tensor.shape.size() > 4 ||
        !names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: tensor ", Quoted(tensor.name), " ", ToString(tensor.shape),
                       ": expected a new name of 1 to 64 bytes and at most 4 dimensions"));
    }
    const auto bytes = GgufTensorBytes(tensor.type, tensor.shape);
    if (!bytes.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF: tensor ", Quoted(tensor.name), ": ", bytes.status().message()));
    }
    tensor.bytes = *bytes;
    tensor.offset = offset;
    uint64_t end = 0;
    if (!CheckedAdd(offset, tensor.bytes, &end) || !CheckedAdd(end, alignment - 1, &end)) {
      return absl::InvalidArgumentError("GGUF: the tensors take more than 2^64 bytes together");
    }
    offset = end / alignment * alignment;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> AlignmentOf(const GgufMetadata& metadata) {
  ASSIGN_OR_RETURN(const auto alignment, metadata.Integer("general.alignment"));
  if (!alignment) return 32;
  if (*alignment < 1 || *alignment > 65536 || (*alignment & (*alignment - 1)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("GGUF: general.alignment is ", *alignment,
                                                   ", expected a power of two up to 65536"));
  }
  return static_cast<uint64_t>(*alignment);
}

std::vector<std::byte> HeaderBytes(const GgufMetadata& metadata,
                                   const std::vector<GgufTensorInfo>& tensors, uint64_t alignment) {
  ByteAppender out;
  out.Number<uint32_t>(0x46554747);
  out.Number<uint32_t>(3);
  out.Number<uint64_t>(tensors.size());
  out.Number<uint64_t>(metadata.entries().size());
  for (const auto& [key, value] : metadata.entries()) {
    out.String(key);
    out.Value(value);
  }
  for (const GgufTensorInfo& tensor : tensors) {
    out.String(tensor.name);
    out.Number(static_cast<uint32_t>(tensor.shape.size()));
    for (auto dim = tensor.shape.rbegin(); dim != tensor.shape.rend(); ++dim) {
      out.Number(static_cast<uint64_t>(*dim));
    }
    out.Number(static_cast<uint32_t>(tensor.type));
    out.Number(tensor.offset);
  }
  out.PadTo(alignment);
  return out.Take();
}

class StreamWriter : public GgufWriter {
 public:
  StreamWriter(std::unique_ptr<OutputFile> file, std::vector<GgufTensorInfo> tensors,
               uint64_t alignment, uint64_t data_offset)
      : file_(std::move(file)),
        tensors_(std::move(tensors)),
        alignment_(alignment),
        data_offset_(data_offset) {}

  absl::Status Start(const std::vector<std::byte>& header) { return file_->WriteAt(0, header); }

  const std::vector<GgufTensorInfo>& tensors() const override { return tensors_; }

  absl::Status Add(absl::string_view name, std::span<const std::byte> blocks) override {
    RETURN_IF_ERROR(CheckNext(name));
    const GgufTensorInfo& tensor = tensors_[next_];
    if (tensor.bytes != blocks.size()) {
      return absl::InvalidArgumentError(absl::StrCat("GGUF: tensor ", Quoted(name), " has ",
                                                     blocks.size(), " bytes of blocks, expected ",
                                                     tensor.bytes));
    }
    const uint64_t begin = data_offset_ + tensor.offset;
    RETURN_IF_ERROR(file_->WriteAt(begin, blocks));
    const std::vector<std::byte> padding(EndOf(tensor) - begin - blocks.size());
    RETURN_IF_ERROR(file_->WriteAt(begin + blocks.size(), padding));
    ++next_;
    return absl::OkStatus();
  }

  absl::Status Skip(absl::string_view name) override {
    RETURN_IF_ERROR(CheckNext(name));
    if (file_->size() < EndOf(tensors_[next_])) {
      return absl::DataLossError(absl::StrCat("'", file_->name(), "' ends before tensor ",
                                              Quoted(name), ", which an earlier run wrote"));
    }
    ++next_;
    return absl::OkStatus();
  }

  absl::Status Finish() override {
    if (next_ != tensors_.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("GGUF: tensor ", Quoted(tensors_[next_].name), " was not written"));
    }
    RETURN_IF_ERROR(file_->Truncate(tensors_.empty() ? data_offset_ : EndOf(tensors_.back())));
    return file_->Sync();
  }

 private:
  absl::Status CheckNext(absl::string_view name) const {
    if (next_ < tensors_.size() && tensors_[next_].name == name) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "GGUF: tensor ", Quoted(name), " is out of order, expected ",
        next_ < tensors_.size() ? Quoted(tensors_[next_].name) : std::string("no more")));
  }
  // In the file, with the padding behind.
  uint64_t EndOf(const GgufTensorInfo& tensor) const {
    return data_offset_ + (tensor.offset + tensor.bytes + alignment_ - 1) / alignment_ * alignment_;
  }

  std::unique_ptr<OutputFile> file_;
  std::vector<GgufTensorInfo> tensors_;
  uint64_t alignment_;
  uint64_t data_offset_;
  size_t next_ = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GgufWriter>> GgufWriter::Create(
    std::unique_ptr<OutputFile> file, const GgufMetadata& metadata,
    std::vector<GgufTensorInfo> tensors) {
  ASSIGN_OR_RETURN(const uint64_t alignment, AlignmentOf(metadata));
  RETURN_IF_ERROR(LayOut(alignment, tensors));
  const std::vector<std::byte> header = HeaderBytes(metadata, tensors, alignment);
  auto writer =
      std::make_unique<StreamWriter>(std::move(file), std::move(tensors), alignment, header.size());
  RETURN_IF_ERROR(writer->Start(header));
  return writer;
}

}  // namespace quantd

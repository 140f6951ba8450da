#include <algorithm>
#include <new>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"
#include "formats/mapped_file.h"
#include "formats/safetensors/safetensors.h"

namespace quantd {
namespace {

absl::Status Prefixed(absl::string_view file, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("'", file, "': ", status.message()));
}

// What file and memory readers share: the header and its index by name.
class IndexedReader : public SafetensorsReader {
 public:
  const SafetensorsHeader& header() const override { return header_; }
  const TensorInfo* Find(absl::string_view name) const override {
    const auto entry = index_.find(name);
    return entry == index_.end() ? nullptr : &header_.tensors[entry->second];
  }

  absl::StatusOr<Tensor> Read(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const TensorInfo* info, Need(name));
    Tensor tensor{info->dtype, info->shape, {}};
    const uint64_t bytes = info->end - info->begin;
    try {
      tensor.bytes.reserve(bytes);
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for tensor ", Quoted(name), " of ", bytes, " bytes"));
    }
    // Piece by piece, so that the zeros of resize() are still in the cache when they are replaced.
    constexpr uint64_t kPiece = uint64_t{1} << 20;
    for (uint64_t at = 0; at < bytes; at = tensor.bytes.size()) {
      tensor.bytes.resize(std::min(bytes, at + kPiece));
      RETURN_IF_ERROR(
          Copy(header_.data_offset + info->begin + at, std::span(tensor.bytes).subspan(at)));
    }
    return tensor;
  }

  absl::StatusOr<TensorView> View(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const TensorInfo* info, Need(name));
    return TensorView{info->dtype, info->shape,
                      Bytes().subspan(header_.data_offset + info->begin, info->end - info->begin)};
  }

 protected:
  explicit IndexedReader(std::string name) : name_(std::move(name)) {}

  absl::Status Index(SafetensorsHeader header) {
    header_ = std::move(header);
    index_.reserve(header_.tensors.size());
    for (size_t i = 0; i < header_.tensors.size(); ++i) index_[header_.tensors[i].name] = i;
    return absl::OkStatus();
  }
  virtual absl::Status Copy(uint64_t offset, std::span<std::byte> out) const = 0;
  virtual std::span<const std::byte> Bytes() const = 0;

 private:
  absl::StatusOr<const TensorInfo*> Need(absl::string_view name) const {
    const TensorInfo* info = Find(name);
    if (info == nullptr) {
      return absl::NotFoundError(absl::StrCat("tensor ", Quoted(name), " is not in '", name_, "'"));
    }
    return info;
  }

  std::string name_;
  SafetensorsHeader header_;
  absl::flat_hash_map<absl::string_view, size_t> index_;  // names live in header_
};

class FileReader : public IndexedReader {
 public:
  FileReader(std::shared_ptr<const File> file, std::shared_ptr<const MappedFile> mapping)
      : IndexedReader(file->name()), file_(std::move(file)), mapping_(std::move(mapping)) {}

  absl::Status Parse() {
    auto header = ParseSafetensorsHeader(mapping_->bytes(), file_->size());
    RETURN_IF_ERROR(mapping_->CheckIntact());
    if (!header.ok()) return Prefixed(file_->name(), header.status());
    return Index(*std::move(header));
  }
  absl::Status CheckIntact() const override { return mapping_->CheckIntact(); }
  absl::StatusOr<SharedTensor> Lend(absl::string_view name) const override {
    ASSIGN_OR_RETURN(TensorView view, View(name));
    return quantd::Lend(mapping_, std::move(view));
  }

 protected:
  absl::Status Copy(uint64_t offset, std::span<std::byte> out) const override {
    return file_->ReadAt(offset, out.size(), out.data());
  }
  std::span<const std::byte> Bytes() const override { return mapping_->bytes(); }

 private:
  std::shared_ptr<const File> file_;
  std::shared_ptr<const MappedFile> mapping_;
};

class MemoryReader : public IndexedReader {
 public:
  explicit MemoryReader(std::vector<std::byte> bytes)
      : IndexedReader("safetensors"), bytes_(std::move(bytes)) {}

  absl::Status Parse() {
    ASSIGN_OR_RETURN(SafetensorsHeader header, ParseSafetensorsHeader(bytes_, bytes_.size()));
    return Index(std::move(header));
  }
  absl::Status CheckIntact() const override { return absl::OkStatus(); }
  absl::StatusOr<SharedTensor> Lend(absl::string_view name) const override {
    ASSIGN_OR_RETURN(Tensor tensor, Read(name));
    return Share(std::move(tensor));
  }

 protected:
  absl::Status Copy(uint64_t offset, std::span<std::byte> out) const override {
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return absl::OkStatus();
  }
  std::span<const std::byte> Bytes() const override { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::Open(
    std::shared_ptr<const File> file) {
  ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapping, MappedFile::Map(file));
  auto reader = std::make_unique<FileReader>(std::move(file), std::move(mapping));
  RETURN_IF_ERROR(reader->Parse());
  return reader;
}

absl::StatusOr<std::unique_ptr<SafetensorsReader>> SafetensorsReader::FromBytes(
    std::vector<std::byte> bytes) {
  auto reader = std::make_unique<MemoryReader>(std::move(bytes));
  RETURN_IF_ERROR(reader->Parse());
  return reader;
}

}  // namespace quantd

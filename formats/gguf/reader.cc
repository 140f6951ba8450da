#include <cstdio>
#include <new>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "formats/escaped_name.h"
#include "formats/gguf/gguf.h"
#include "formats/mapped_file.h"

namespace quantd {
namespace {

class MappedReader : public GgufReader {
 public:
  MappedReader(std::shared_ptr<const File> file, std::unique_ptr<MappedFile> mapping)
      : file_(std::move(file)), mapping_(std::move(mapping)) {}

  absl::Status Parse() {
    auto header = ParseGgufHeader(mapping_->bytes(), file_->size());
    RETURN_IF_ERROR(mapping_->CheckIntact());
    if (!header.ok()) {
      return absl::Status(header.status().code(),
                          absl::StrCat("'", file_->name(), "': ", header.status().message()));
    }
    header_ = *std::move(header);
    index_.reserve(header_.tensors.size());
    for (const GgufTensorInfo& info : header_.tensors) index_[info.name] = &info;
    return CheckNotSplit();
  }

  const GgufHeader& header() const override { return header_; }
  const GgufTensorInfo* Find(absl::string_view name) const override {
    const auto entry = index_.find(name);
    return entry == index_.end() ? nullptr : entry->second;
  }

  absl::StatusOr<std::vector<std::byte>> Read(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const GgufTensorInfo* info, Need(name));
    std::vector<std::byte> blocks;
    try {
      blocks.resize(info->bytes);
    } catch (const std::bad_alloc&) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for tensor ", Quoted(name), " of ", info->bytes, " bytes"));
    }
    RETURN_IF_ERROR(
        file_->ReadAt(header_.data_offset + info->offset, blocks.size(), blocks.data()));
    return blocks;
  }

  absl::StatusOr<std::span<const std::byte>> View(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const GgufTensorInfo* info, Need(name));
    return mapping_->bytes().subspan(header_.data_offset + info->offset, info->bytes);
  }

  absl::Status CheckIntact() const override { return mapping_->CheckIntact(); }

 private:
  absl::StatusOr<const GgufTensorInfo*> Need(absl::string_view name) const {
    const GgufTensorInfo* info = Find(name);
    if (info == nullptr) {
      return absl::NotFoundError(
          absl::StrCat("tensor ", Quoted(name), " is not in '", file_->name(), "'"));
    }
    return info;
  }

  absl::Status CheckNotSplit() const {
    ASSIGN_OR_RETURN(const auto count, header_.metadata.Integer("split.count"));
    if (!count || *count == 1) return absl::OkStatus();
    if (*count > 1 && absl::EndsWith(file_->name(), absl::StrFormat("-of-%05d.gguf", *count))) {
      return absl::UnimplementedError(
          absl::StrCat("'", file_->name(), "' is one of ", *count,
                       " parts of a split model; merge them first (llama-gguf-split --merge)"));
    }
    return absl::InvalidArgumentError(absl::StrCat("'", file_->name(), "': split.count is ", *count,
                                                   ", but this is one whole file"));
  }

  std::shared_ptr<const File> file_;
  std::unique_ptr<MappedFile> mapping_;
  GgufHeader header_;
  absl::flat_hash_map<absl::string_view, const GgufTensorInfo*> index_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Open(std::shared_ptr<const File> file) {
  ASSIGN_OR_RETURN(auto mapping, MappedFile::Map(file));
  auto reader = std::make_unique<MappedReader>(std::move(file), std::move(mapping));
  RETURN_IF_ERROR(reader->Parse());
  return reader;
}

}  // namespace quantd

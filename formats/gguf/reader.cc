#include <cstdio>
#include <new>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "formats/escaped_name.h"
#include "formats/gguf/gguf.h"
#include "formats/mapped_file.h"

namespace quantd {
namespace {

class MappedReader : public GgufReader {
 public:
  MappedReader(std::shared_ptr<const File> file, std::shared_ptr<const MappedFile> mapping)
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
    return absl::OkStatus();
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

  absl::StatusOr<SharedTensor> Lend(absl::string_view name) const override {
    ASSIGN_OR_RETURN(const std::span<const std::byte> bytes, View(name));
    return quantd::Lend(mapping_, {DType::kU8, {static_cast<int64_t>(bytes.size())}, bytes});
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

  std::shared_ptr<const File> file_;
  std::shared_ptr<const MappedFile> mapping_;
  GgufHeader header_;
  absl::flat_hash_map<absl::string_view, const GgufTensorInfo*> index_;
};

absl::StatusOr<std::unique_ptr<MappedReader>> OpenFile(std::shared_ptr<const File> file) {
  ASSIGN_OR_RETURN(std::shared_ptr<const MappedFile> mapping, MappedFile::Map(file));
  auto reader = std::make_unique<MappedReader>(std::move(file), std::move(mapping));
  RETURN_IF_ERROR(reader->Parse());
  return reader;
}

// INVALID_ARGUMENT unless the file says `expected` under the key; nothing said counts as `missing`.
absl::Status CheckSplitKey(const GgufHeader& header, const std::string& file, const char* key,
                           int64_t expected, int64_t missing) {
  ASSIGN_OR_RETURN(const auto found, header.metadata.Integer(key));
  if (found.value_or(missing) == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("'", file, "': ", key, " is ",
                                                 found.value_or(missing), ", expected ", expected,
                                                 " by the name and the number of files"));
}

class SplitReader final : public GgufReader {
 public:
  absl::Status Add(std::shared_ptr<const File> file, int64_t number, int64_t count) {
    const std::string name = file->name();
    ASSIGN_OR_RETURN(std::unique_ptr<MappedReader> part, OpenFile(std::move(file)));
    const GgufHeader& header = part->header();
    RETURN_IF_ERROR(CheckSplitKey(header, name, "split.count", count, 1));
    RETURN_IF_ERROR(CheckSplitKey(header, name, "split.no", number, 0));
    if (number == 0) {
      first_name_ = name;
      header_.metadata = header.metadata;
    }
    header_.tensors.insert(header_.tensors.end(), header.tensors.begin(), header.tensors.end());
    part_ends_.push_back(header_.tensors.size());
    parts_.push_back(std::move(part));
    return absl::OkStatus();
  }

  absl::Status Finish() {
    const auto total = static_cast<int64_t>(header_.tensors.size());
    RETURN_IF_ERROR(CheckSplitKey(header_, first_name_, "split.tensors.count", total, total));
    // What is read here is one whole model.
    for (const char* key : {"split.no", "split.count", "split.tensors.count"}) {
      header_.metadata.Erase(key);
    }
    for (size_t i = 0; i < header_.tensors.size(); ++i) {
      if (index_.emplace(header_.tensors[i].name, i).second) continue;
      return absl::InvalidArgumentError(absl::StrCat(
          "'", first_name_, "': two parts hold a tensor ", Quoted(header_.tensors[i].name)));
    }
    return absl::OkStatus();
  }

  const GgufHeader& header() const override { return header_; }
  const GgufTensorInfo* Find(absl::string_view name) const override {
    const auto entry = index_.find(name);
    return entry == index_.end() ? nullptr : &header_.tensors[entry->second];
  }
  absl::StatusOr<std::vector<std::byte>> Read(absl::string_view name) const override {
    return PartOf(name).Read(name);
  }
  absl::StatusOr<std::span<const std::byte>> View(absl::string_view name) const override {
    return PartOf(name).View(name);
  }
  absl::StatusOr<SharedTensor> Lend(absl::string_view name) const override {
    return PartOf(name).Lend(name);
  }
  absl::Status CheckIntact() const override {
    for (const auto& part : parts_) RETURN_IF_ERROR(part->CheckIntact());
    return absl::OkStatus();
  }

 private:
  // The part that holds the tensor; the first for a name that none has.
  const GgufReader& PartOf(absl::string_view name) const {
    const auto entry = index_.find(name);
    if (entry == index_.end()) return *parts_.front();
    size_t part = 0;
    while (entry->second >= part_ends_[part]) ++part;
    return *parts_[part];
  }

  std::vector<std::unique_ptr<MappedReader>> parts_;
  std::vector<size_t> part_ends_;  // how many tensors lie in a part and those before it
  std::string first_name_;
  GgufHeader header_;
  absl::flat_hash_map<absl::string_view, size_t> index_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::Open(std::shared_ptr<const File> file) {
  const std::string name = file->name();
  ASSIGN_OR_RETURN(std::unique_ptr<MappedReader> reader, OpenFile(std::move(file)));
  RETURN_IF_ERROR(CheckSplitKey(reader->header(), name, "split.count", 1, 1));
  return reader;
}

absl::StatusOr<std::unique_ptr<GgufReader>> GgufReader::OpenSplit(
    std::vector<std::shared_ptr<const File>> parts) {
  auto reader = std::make_unique<SplitReader>();
  for (size_t i = 0; i < parts.size(); ++i) {
    RETURN_IF_ERROR(reader->Add(std::move(parts[i]), static_cast<int64_t>(i),
                                static_cast<int64_t>(parts.size())));
  }
  RETURN_IF_ERROR(reader->Finish());
  return reader;
}

}  // namespace quantd

#include "quantizers/activations.h"

#include <array>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/huggingface/write_journal.h"

namespace quantd {
namespace {

constexpr uint64_t kMagic = 0x31766c7361627571;  // "qubaslv1"
using Seal64 = std::array<uint64_t, 2>;

uint64_t Fold(uint64_t checksum, std::span<const std::byte> bytes) {
  return (checksum ^ ChecksumOf(bytes)) * 0x9e3779b97f4a7c15u + 1;
}

}  // namespace

absl::StatusOr<ActivationWriter> ActivationWriter::Create(CheckpointSink& sink,
                                                          const std::string& name) {
  ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, sink.CreateScratch(name));
  return ActivationWriter(std::move(file));
}

absl::Status ActivationWriter::Append(std::span<const float> values) {
  checksum_ = Fold(checksum_, std::as_bytes(values));
  return file_->Append(std::as_bytes(values));
}

absl::Status ActivationWriter::Seal() {
  const Seal64 seal = {kMagic, checksum_};
  return file_->Append(std::as_bytes(std::span(seal)));
}

ActivationFile::ActivationFile(std::shared_ptr<const File> file, std::vector<int64_t> tokens,
                               int64_t width)
    : file_(std::move(file)), tokens_(std::move(tokens)), begin_{0} {
  for (const int64_t count : tokens_) {
    begin_.push_back(begin_.back() + static_cast<uint64_t>(count * width) * sizeof(float));
  }
}

absl::StatusOr<std::unique_ptr<ActivationFile>> ActivationFile::Open(CheckpointSink& sink,
                                                                     const std::string& name,
                                                                     std::vector<int64_t> tokens,
                                                                     int64_t width) {
  ASSIGN_OR_RETURN(std::shared_ptr<const File> file, sink.OpenScratch(name));
  std::unique_ptr<ActivationFile> opened(
      new ActivationFile(std::move(file), std::move(tokens), width));
  const absl::Status broken = absl::NotFoundError(absl::StrCat("no whole activations in ", name));
  const uint64_t end = opened->begin_.back();
  if (opened->file_->size() != end + sizeof(Seal64)) return broken;
  uint64_t checksum = 0;
  for (size_t i = 0; i < opened->tokens_.size(); ++i) {
    ASSIGN_OR_RETURN(const FloatBuffer values, opened->Read(static_cast<int64_t>(i)));
    checksum = Fold(checksum, std::as_bytes(std::span(values)));
  }
  Seal64 seal = {};
  RETURN_IF_ERROR(
      opened->file_->ReadAt(end, sizeof seal, reinterpret_cast<std::byte*>(seal.data())));
  if (seal != Seal64{kMagic, checksum}) return broken;
  return opened;
}

absl::StatusOr<std::unique_ptr<ActivationFile>> ActivationFile::OpenOwn(CheckpointSink& sink,
                                                                        const std::string& name,
                                                                        std::vector<int64_t> tokens,
                                                                        int64_t width) {
  ASSIGN_OR_RETURN(std::shared_ptr<const File> file, sink.OpenScratch(name));
  return std::unique_ptr<ActivationFile>(
      new ActivationFile(std::move(file), std::move(tokens), width));
}

absl::StatusOr<FloatBuffer> ActivationFile::Read(int64_t sequence) const {
  FloatBuffer values;
  RETURN_IF_ERROR(Read(sequence, values));
  return values;
}

absl::Status ActivationFile::Read(int64_t sequence, FloatBuffer& values) const {
  const auto i = static_cast<size_t>(sequence);
  const uint64_t bytes = begin_[i + 1] - begin_[i];
  values.resize(bytes / sizeof(float));
  return file_->ReadAt(begin_[i], bytes, reinterpret_cast<std::byte*>(values.data()));
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadTokens(CheckpointSink& sink,
                                                             const std::string& name) {
  const absl::Status absent = absl::NotFoundError("no calibration set is kept");
  ASSIGN_OR_RETURN(const std::shared_ptr<const File> file, sink.OpenScratch(name));
  std::vector<int32_t> words(file->size() / sizeof(int32_t));
  RETURN_IF_ERROR(
      file->ReadAt(0, words.size() * sizeof(int32_t), reinterpret_cast<std::byte*>(words.data())));
  if (words.size() < 2) return absent;
  uint64_t checksum;
  std::memcpy(&checksum, words.data(), sizeof checksum);
  if (checksum != ChecksumOf(std::as_bytes(std::span(words)).subspan(sizeof checksum))) {
    return absent;
  }
  std::vector<std::vector<int32_t>> sequences;
  for (size_t i = 2; i < words.size();) {
    const auto count = static_cast<size_t>(words[i++]);
    if (count > words.size() - i) return absent;
    sequences.emplace_back(words.begin() + static_cast<ptrdiff_t>(i),
                           words.begin() + static_cast<ptrdiff_t>(i + count));
    i += count;
  }
  return sequences;
}

absl::Status WriteTokens(CheckpointSink& sink, const std::string& name,
                         const std::vector<std::vector<int32_t>>& sequences) {
  std::vector<int32_t> words;
  for (const std::vector<int32_t>& sequence : sequences) {
    words.push_back(static_cast<int32_t>(sequence.size()));
    words.insert(words.end(), sequence.begin(), sequence.end());
  }
  const uint64_t checksum = ChecksumOf(std::as_bytes(std::span(words)));
  ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, sink.CreateScratch(name));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(&checksum, 1))));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(words))));
  return file->Sync();
}

}  // namespace quantd

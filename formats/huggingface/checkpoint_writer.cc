#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "formats/escaped_name.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "formats/huggingface/write_journal.h"

namespace quantd {
namespace {

constexpr size_t kJournalLimit = size_t{1} << 30;
constexpr std::chrono::seconds kFlushInterval(1);

// Names while the number of shards is not known.
std::string WorkingName(size_t shard) {
  return absl::StrFormat("shard-%05d.safetensors", shard + 1);
}

std::string FinalName(size_t shard, size_t count) {
  if (count == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", shard + 1, count);
}

// The shard that a working or final name stands for; npos for other files.
size_t ShardOf(absl::string_view name) {
  if (!absl::EndsWith(name, ".safetensors")) return std::string::npos;
  if (name == "model.safetensors") return 0;
  for (const absl::string_view prefix : {"shard-", "model-"}) {
    size_t number = 0;
    if (absl::StartsWith(name, prefix) &&
        absl::SimpleAtoi(name.substr(prefix.size(), 5), &number) && number >= 1) {
      return number - 1;
    }
  }
  return std::string::npos;
}

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class JournaledWriter : public CheckpointFolderWriter {
 public:
  JournaledWriter(std::unique_ptr<AtomicOutput> output, const Options& options)
      : output_(std::move(output)), options_(options) {}

  absl::Status Start();

  bool IsComplete(absl::string_view group) const override { return complete_.contains(group); }
  absl::Status Add(absl::string_view name, const TensorView& tensor) override;
  absl::Status CompleteGroup(absl::string_view group, absl::string_view note) override;
  std::optional<std::string> EarlierNote(absl::string_view group) const override;
  std::map<std::string, Shape> stored() const override;
  absl::Status WriteSideFile(absl::string_view relative_name, absl::string_view content) override;
  absl::StatusOr<uint64_t> Finish(const std::string& config_json) override;
  AtomicOutput& output() override { return *output_; }
  absl::Status Suspend() override {
    RETURN_IF_ERROR(Flush());
    output_->KeepPartial();
    return absl::OkStatus();
  }

 private:
  Journal Head() const {
    return {options_.fingerprint, options_.max_shard_bytes, options_.header_reserve, {}};
  }
  // Groups of an earlier run whose bytes are really there.
  absl::StatusOr<std::vector<JournalGroup>> ReadEarlierRun();
  absl::Status UndoRenames();
  absl::StatusOr<bool> IsIntact(const JournalGroup& group);
  absl::Status TakeOver(const std::vector<JournalGroup>& groups);
  absl::Status OpenShard(std::vector<TensorInfo> written);
  absl::Status RemoveUnusedShards();
  absl::Status Flush();
  absl::StatusOr<std::string> IndexJson() const;

  std::unique_ptr<AtomicOutput> output_;
  Options options_;
  std::unique_ptr<OutputFile> journal_;
  std::vector<std::unique_ptr<SafetensorsWriter>> shards_;
  size_t first_dirty_ = 0;  // the first shard written to since the last flush
  absl::flat_hash_set<std::string> names_;
  absl::flat_hash_set<std::string> complete_;
  absl::flat_hash_map<std::string, std::string> earlier_notes_;
  JournalGroup group_;         // being written
  std::string pending_lines_;  // of complete groups, not flushed yet
  std::chrono::steady_clock::time_point last_flush_ = std::chrono::steady_clock::now();
  uint64_t side_bytes_ = 0;
};

absl::Status JournaledWriter::Start() {
  std::vector<JournalGroup> groups;
  if (options_.resume) {
    auto earlier = ReadEarlierRun();
    if (!earlier.ok()) {
      // For a resume with the right settings.
      if (!absl::IsCancelled(earlier.status())) output_->KeepPartial();
      return earlier.status();
    }
    groups = *std::move(earlier);
  }
  ASSIGN_OR_RETURN(std::string text, JournalHead(Head()));
  for (const JournalGroup& group : groups) {
    ASSIGN_OR_RETURN(const std::string line, JournalLine(group));
    text += line;
  }
  // The same bytes are there already if this is a resume; what follows them is cut off.
  ASSIGN_OR_RETURN(journal_, output_->CreateFile(kJournalFile));
  RETURN_IF_ERROR(journal_->WriteAt(0, Bytes(text)));
  RETURN_IF_ERROR(journal_->Truncate(text.size()));
  RETURN_IF_ERROR(journal_->Sync());
  RETURN_IF_ERROR(TakeOver(groups));
  return RemoveUnusedShards();
}

absl::StatusOr<std::vector<JournalGroup>> JournaledWriter::ReadEarlierRun() {
  const auto file = output_->OpenFile(kJournalFile);
  if (absl::IsNotFound(file.status())) return std::vector<JournalGroup>();
  RETURN_IF_ERROR(file.status());
  ASSIGN_OR_RETURN(const std::string text, (*file)->ReadAll(kJournalLimit));
  if (text.empty()) return std::vector<JournalGroup>();
  ASSIGN_OR_RETURN(Journal journal, ParseJournal(text));
  if (journal.fingerprint != options_.fingerprint ||
      journal.max_shard_bytes != options_.max_shard_bytes ||
      journal.header_reserve != options_.header_reserve) {
    return absl::FailedPreconditionError(
        "the interrupted output belongs to a job with another model, recipe or option; resume with "
        "the same ones, or start without resume");
  }
  RETURN_IF_ERROR(UndoRenames());
  std::vector<JournalGroup> intact;
  for (JournalGroup& group : journal.groups) {
    ASSIGN_OR_RETURN(const bool is_intact, IsIntact(group));
    if (!is_intact) break;
    intact.push_back(std::move(group));
  }
  return intact;
}

// A run that was killed while it finished has given some shards their final names.
absl::Status JournaledWriter::UndoRenames() {
  for (const std::string& name : output_->List()) {
    const size_t shard = ShardOf(name);
    if (shard != std::string::npos && name != WorkingName(shard)) {
      RETURN_IF_ERROR(output_->RenameFile(name, WorkingName(shard)));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> JournaledWriter::IsIntact(const JournalGroup& group) {
  const uint64_t data_offset = SafetensorsDataOffset(options_.header_reserve);
  for (const JournalTensor& tensor : group.tensors) {
    const auto file = output_->OpenFile(WorkingName(static_cast<size_t>(tensor.shard)));
    if (!file.ok()) return false;
    const uint64_t size = (*file)->size();
    if (size < data_offset || tensor.info.end > size - data_offset) return false;
    std::vector<std::byte> bytes(tensor.info.end - tensor.info.begin);
    RETURN_IF_ERROR((*file)->ReadAt(data_offset + tensor.info.begin, bytes.size(), bytes.data()));
    if (ChecksumOf(bytes) != tensor.checksum) return false;
  }
  return true;
}

absl::Status JournaledWriter::TakeOver(const std::vector<JournalGroup>& groups) {
  std::vector<std::vector<TensorInfo>> written;
  for (const JournalGroup& group : groups) {
    for (const JournalTensor& tensor : group.tensors) {
      const auto shard = static_cast<size_t>(tensor.shard);
      if (shard > written.size())
        return absl::DataLossError("the journal skips a shard; start again");
      if (shard == written.size()) written.emplace_back();
      written[shard].push_back(tensor.info);
      names_.insert(tensor.info.name);
    }
    complete_.insert(group.name);
    earlier_notes_[group.name] = group.note;
  }
  for (auto& tensors : written) RETURN_IF_ERROR(OpenShard(std::move(tensors)));
  first_dirty_ = shards_.empty() ? 0 : shards_.size() - 1;
  return absl::OkStatus();
}

absl::Status JournaledWriter::OpenShard(std::vector<TensorInfo> written) {
  ASSIGN_OR_RETURN(auto file, output_->CreateFile(WorkingName(shards_.size())));
  auto writer = written.empty()
                    ? SafetensorsWriter::Create(std::move(file), options_.header_reserve)
                    : SafetensorsWriter::Continue(std::move(file), options_.header_reserve,
                                                  std::move(written));
  RETURN_IF_ERROR(writer.status());
  shards_.push_back(*std::move(writer));
  return absl::OkStatus();
}

absl::Status JournaledWriter::RemoveUnusedShards() {
  for (const std::string& name : output_->List()) {
    const size_t shard = ShardOf(name);
    if (shard != std::string::npos && shard >= shards_.size()) {
      RETURN_IF_ERROR(output_->RemoveFile(name));
    }
  }
  return absl::OkStatus();
}

absl::Status JournaledWriter::Add(absl::string_view name, const TensorView& tensor) {
  if (names_.contains(name)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(name), " was written before"));
  }
  const bool fits = !shards_.empty() && (shards_.back()->data_bytes() == 0 ||
                                         shards_.back()->data_bytes() + tensor.bytes.size() <=
                                             options_.max_shard_bytes);
  if (!fits) RETURN_IF_ERROR(OpenShard({}));
  RETURN_IF_ERROR(shards_.back()->Add(name, tensor));
  names_.emplace(name);
  group_.tensors.push_back({shards_.back()->tensors().back(), static_cast<int>(shards_.size()) - 1,
                            ChecksumOf(tensor.bytes)});
  return absl::OkStatus();
}

absl::Status JournaledWriter::CompleteGroup(absl::string_view group, absl::string_view note) {
  group_.name = std::string(group);
  group_.note = std::string(note);
  ASSIGN_OR_RETURN(const std::string line, JournalLine(group_));
  pending_lines_ += line;
  complete_.insert(group_.name);
  group_ = {};
  if (std::chrono::steady_clock::now() - last_flush_ < kFlushInterval) return absl::OkStatus();
  return Flush();
}

std::optional<std::string> JournaledWriter::EarlierNote(absl::string_view group) const {
  const auto found = earlier_notes_.find(group);
  return found == earlier_notes_.end() ? std::nullopt : std::optional(found->second);
}

// Tensors reach the disk before the journal says so.
absl::Status JournaledWriter::Flush() {
  for (size_t i = first_dirty_; i < shards_.size(); ++i) RETURN_IF_ERROR(shards_[i]->Sync());
  first_dirty_ = shards_.empty() ? 0 : shards_.size() - 1;
  RETURN_IF_ERROR(journal_->Append(Bytes(pending_lines_)));
  RETURN_IF_ERROR(journal_->Sync());
  pending_lines_.clear();
  last_flush_ = std::chrono::steady_clock::now();
  return absl::OkStatus();
}

std::map<std::string, Shape> JournaledWriter::stored() const {
  std::map<std::string, Shape> shapes;
  for (const auto& shard : shards_) {
    for (const TensorInfo& info : shard->tensors()) shapes[info.name] = info.shape;
  }
  return shapes;
}

absl::Status JournaledWriter::WriteSideFile(absl::string_view relative_name,
                                            absl::string_view content) {
  if (relative_name == kJournalFile || ShardOf(relative_name) != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("side file ", Quoted(relative_name), " has a name of the checkpoint's own"));
  }
  RETURN_IF_ERROR(output_->WriteFile(relative_name, content));
  side_bytes_ += content.size();
  return absl::OkStatus();
}

// As huggingface_hub writes it: sorted, indented by two.
absl::StatusOr<std::string> JournaledWriter::IndexJson() const {
  uint64_t total = 0;
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < shards_.size(); ++i) {
    total += shards_[i]->data_bytes();
    for (const TensorInfo& info : shards_[i]->tensors())
      map[info.name] = FinalName(i, shards_.size());
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}},
                                {"weight_map", std::move(map)}};
  return index.dump(2, ' ', /*ensure_ascii=*/true) + "\n";
}

absl::StatusOr<uint64_t> JournaledWriter::Finish(const std::string& config_json) {
  if (!group_.tensors.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "tensor ", Quoted(group_.tensors[0].info.name), " belongs to no complete group"));
  }
  if (shards_.empty()) RETURN_IF_ERROR(OpenShard({}));
  std::map<std::string, std::string> metadata = options_.metadata;
  metadata["format"] = "pt";
  for (const auto& shard : shards_) RETURN_IF_ERROR(shard->Finish(metadata));
  if (shards_.size() > 1 || options_.always_index) {
    ASSIGN_OR_RETURN(const std::string index, IndexJson());
    RETURN_IF_ERROR(WriteSideFile("model.safetensors.index.json", index));
  }
  RETURN_IF_ERROR(WriteSideFile("config.json", config_json));
  uint64_t bytes = side_bytes_;
  for (size_t i = 0; i < shards_.size(); ++i) {
    const std::string name = FinalName(i, shards_.size());
    RETURN_IF_ERROR(output_->RenameFile(WorkingName(i), name));
    ASSIGN_OR_RETURN(const auto file, output_->OpenFile(name));
    bytes += file->size();
  }
  journal_.reset();
  RETURN_IF_ERROR(output_->RemoveFile(kJournalFile));
  RETURN_IF_ERROR(output_->Commit());
  return bytes;
}

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointFolderWriter>> CheckpointFolderWriter::Create(
    std::unique_ptr<AtomicOutput> output, const Options& options) {
  auto writer = std::make_unique<JournaledWriter>(std::move(output), options);
  RETURN_IF_ERROR(writer->Start());
  return writer;
}

}  // namespace quantd

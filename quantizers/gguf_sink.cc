#include <chrono>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/float_types.h"
#include "formats/atomic_output.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/work_queue.h"

namespace quantd {
namespace {

constexpr absl::string_view kJournal = "journal";
constexpr std::chrono::seconds kFlushInterval(1);
constexpr size_t kJournalLimit = size_t{64} << 20;

// The journal is the job's fingerprint (hashed to one line) and then one complete tensor a line:
// its name and, after a tab, its note.
std::string JournalHead(const JobPlan& plan) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : plan.fingerprint)
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return absl::StrCat("gguf ", absl::Hex(hash, absl::kZeroPad16));
}

class GgufSink final : public CheckpointSink {
 public:
  GgufSink(const JobPlan& plan, std::unique_ptr<AtomicOutput> output)
      : plan_(plan), output_(std::move(output)), writes_(WriteLimit(plan)) {}

  absl::Status Open(const std::string& name, bool resume) {
    if (resume) RETURN_IF_ERROR(ReadJournal());
    ASSIGN_OR_RETURN(journal_, output_->CreateFile(kJournal));
    if (earlier_notes_.empty()) {
      RETURN_IF_ERROR(journal_->Truncate(0));
      const std::string head = JournalHead(plan_) + "\n";
      RETURN_IF_ERROR(journal_->WriteAt(0, std::as_bytes(std::span(head))));
      journal_size_ = head.size();
    }
    ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, output_->CreateFile(name));
    file_ = file.get();
    ASSIGN_OR_RETURN(writer_, GgufWriter::Create(std::move(file), plan_.metadata, Infos()));
    for (const auto& [tensor, divisors] : plan_.rope_divisors) {
      RETURN_IF_ERROR(writer_->Add(tensor, std::as_bytes(std::span(divisors))));
    }
    for (const PlannedParameter& parameter : plan_.parameters) {
      if (!IsComplete(parameter)) break;
      RETURN_IF_ERROR(writer_->Skip(parameter.gguf_name));
    }
    return absl::OkStatus();
  }

  bool IsComplete(const PlannedParameter& parameter) const override {
    return earlier_notes_.contains(parameter.gguf_name);
  }

  std::optional<std::string> EarlierNote(const PlannedParameter& parameter) const override {
    const auto found = earlier_notes_.find(parameter.gguf_name);
    return found == earlier_notes_.end() ? std::nullopt : std::optional(found->second);
  }

  absl::Status WritePlain(const PlannedParameter& parameter, SharedTensor tensor,
                          absl::string_view note) override {
    const size_t bytes = tensor.view.bytes.size();
    return writes_.Add(
        bytes, [this, &parameter, tensor = std::move(tensor), note = std::string(note)] {
          const absl::Status added = writer_->Add(parameter.gguf_name, tensor.view.bytes);
          RETURN_IF_ERROR(tensor.CheckIntact());
          RETURN_IF_ERROR(added);
          return Complete(parameter, note);
        });
  }

  absl::StatusOr<std::vector<NamedTensor>> Encode(const PlannedParameter& parameter,
                                                  const QuantizedTensor& weight) const override {
    ASSIGN_OR_RETURN(std::vector<std::byte> blocks, EncodeGgufBlocks(parameter.gguf_type, weight));
    const auto bytes = static_cast<int64_t>(blocks.size());
    return std::vector<NamedTensor>{{"weight", Tensor{DType::kU8, {bytes}, std::move(blocks)}}};
  }

  absl::Status WriteEncoded(const PlannedParameter& parameter, std::vector<NamedTensor> stored,
                            absl::string_view note) override {
    const size_t bytes = StoredBytes(stored);
    return writes_.Add(bytes,
                       [this, &parameter, stored = std::move(stored), note = std::string(note)] {
                         for (const NamedTensor& named : stored) {
                           RETURN_IF_ERROR(writer_->Add(parameter.gguf_name, named.tensor.bytes));
                         }
                         return Complete(parameter, note);
                       });
  }

  absl::StatusOr<uint64_t> Finish() override {
    RETURN_IF_ERROR(writes_.Wait());
    RETURN_IF_ERROR(writer_->Finish());
    journal_.reset();
    RETURN_IF_ERROR(output_->RemoveFile(kJournal));
    RETURN_IF_ERROR(output_->Commit());
    return bytes_;
  }

  absl::Status Suspend() override {
    RETURN_IF_ERROR(writes_.Wait());
    RETURN_IF_ERROR(FlushJournal());
    output_->KeepPartial();
    return absl::OkStatus();
  }

 private:
  static uint64_t BlockBytes(GgmlType type, const Shape& shape) {
    const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(type));
    return static_cast<uint64_t>(NumElements(shape)) / info->block_elements * info->block_bytes;
  }

  std::vector<GgufTensorInfo> Infos() {
    std::vector<GgufTensorInfo> infos;
    for (const auto& [name, divisors] : plan_.rope_divisors) {
      infos.push_back({.name = name,
                       .type = GgmlType::kF32,
                       .shape = {static_cast<int64_t>(divisors.size())},
                       .bytes = divisors.size() * sizeof(float)});
    }
    for (const PlannedParameter& parameter : plan_.parameters) {
      const uint64_t bytes = BlockBytes(parameter.gguf_type, parameter.source.shape);
      infos.push_back({.name = parameter.gguf_name,
                       .type = parameter.gguf_type,
                       .shape = parameter.source.shape,
                       .bytes = bytes});
    }
    for (const GgufTensorInfo& info : infos) bytes_ += info.bytes;
    return infos;
  }

  absl::Status Complete(const PlannedParameter& parameter, absl::string_view note) {
    absl::StrAppend(&pending_lines_, parameter.gguf_name, "\t", note, "\n");
    if (std::chrono::steady_clock::now() - last_flush_ < kFlushInterval) return absl::OkStatus();
    return FlushJournal();
  }

  // Tensors reach the disk before the journal says so.
  absl::Status FlushJournal() {
    RETURN_IF_ERROR(file_->Sync());
    RETURN_IF_ERROR(journal_->WriteAt(journal_size_, std::as_bytes(std::span(pending_lines_))));
    RETURN_IF_ERROR(journal_->Sync());
    journal_size_ += pending_lines_.size();
    pending_lines_.clear();
    last_flush_ = std::chrono::steady_clock::now();
    return absl::OkStatus();
  }

  absl::Status ReadJournal() {
    const auto file = output_->OpenFile(kJournal);
    if (absl::IsNotFound(file.status())) return absl::OkStatus();
    RETURN_IF_ERROR(file.status());
    ASSIGN_OR_RETURN(const std::string text, (*file)->ReadAll(kJournalLimit));
    const std::vector<std::string> lines = absl::StrSplit(text, '\n');
    if (lines.front() != JournalHead(plan_)) {
      output_->KeepPartial();  // it is somebody's work
      return absl::FailedPreconditionError(
          "the interrupted output belongs to another model, recipe or option; start without "
          "resume");
    }
    // The last piece has no newline yet: torn or empty.
    for (size_t i = 1; i + 1 < lines.size(); ++i) {
      earlier_notes_.insert(absl::StrSplit(lines[i], absl::MaxSplits('\t', 1)));
    }
    journal_size_ = text.size() - lines.back().size();
    return absl::OkStatus();
  }

  const JobPlan& plan_;
  std::unique_ptr<AtomicOutput> output_;
  std::unique_ptr<OutputFile> journal_;
  std::unique_ptr<GgufWriter> writer_;
  OutputFile* file_ = nullptr;                        // owned by writer_
  std::map<std::string, std::string> earlier_notes_;  // of complete tensors, by name
  std::string pending_lines_;
  std::chrono::steady_clock::time_point last_flush_ = std::chrono::steady_clock::now();
  uint64_t journal_size_ = 0;
  uint64_t bytes_ = 0;
  WorkQueue writes_;  // bytes; last, because they use the others
};

}  // namespace

absl::StatusOr<std::unique_ptr<CheckpointSink>> CreateGgufSink(
    std::shared_ptr<const ModelRoot> root, const JobPlan& plan, const OutputOptions& options) {
  uint64_t expected = 0;
  for (const PlannedParameter& parameter : plan.parameters) {
    expected += static_cast<uint64_t>(NumElements(parameter.source.shape)) / 4;
  }
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicOutput> output,
                   AtomicOutput::Create(std::move(root), options.name,
                                        {.kind = AtomicOutput::Kind::kSingleFile,
                                         .overwrite = options.overwrite,
                                         .keep_partial = options.resume,
                                         .expected_bytes = expected}));
  auto sink = std::make_unique<GgufSink>(plan, std::move(output));
  RETURN_IF_ERROR(sink->Open(options.name, options.resume));
  return sink;
}

}  // namespace quantd

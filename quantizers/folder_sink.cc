#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/parameter_names.h"
#include "quantizers/work_queue.h"

namespace quantd {
namespace {

constexpr char kScratch[] = "calibration.";

class FolderSink final : public CheckpointSink {
 public:
  FolderSink(const JobPlan& plan, std::unique_ptr<CheckpointFolderWriter> writer)
      : plan_(plan), writer_(std::move(writer)), writes_(WriteLimit(plan)) {}

  bool IsComplete(const PlannedParameter& parameter) const override {
    return EarlierNote(parameter).has_value();
  }

  std::optional<std::string> EarlierNote(const PlannedParameter& parameter) const override {
    return writer_->EarlierNote(parameter.source.name);
  }

  absl::Status WritePlain(const PlannedParameter& parameter, SharedTensor tensor,
                          absl::string_view note) override {
    const size_t bytes = tensor.view.bytes.size();
    return writes_.Add(bytes, [this, name = parameter.source.name, tensor = std::move(tensor),
                               note = std::string(note)] {
      const absl::Status added = writer_->Add(name, tensor.view);
      RETURN_IF_ERROR(tensor.CheckIntact());
      RETURN_IF_ERROR(added);
      return writer_->CompleteGroup(name, note);
    });
  }

  absl::StatusOr<std::vector<NamedTensor>> Encode(const PlannedParameter&,
                                                  const QuantizedTensor& weight) const override {
    return plan_.codec->Encode(weight);
  }

  absl::Status WriteEncoded(const PlannedParameter& parameter, std::vector<NamedTensor> stored,
                            absl::string_view note) override {
    const size_t bytes = StoredBytes(stored);
    return writes_.Add(bytes, [this, name = parameter.source.name, stored = std::move(stored),
                               note = std::string(note)] {
      const std::string module = SplitParameterName(name).module;
      for (const NamedTensor& named : stored) {
        RETURN_IF_ERROR(writer_->Add(absl::StrCat(module, ".", named.name), named.tensor));
      }
      return writer_->CompleteGroup(name, note);
    });
  }

  absl::StatusOr<uint64_t> Finish() override {
    RETURN_IF_ERROR(writes_.Wait());
    for (const auto& [name, content] : plan_.side_files) {
      RETURN_IF_ERROR(writer_->WriteSideFile(name, content));
    }
    ASSIGN_OR_RETURN(const std::string config_json, ConfigJson());
    return writer_->Finish(config_json);
  }

  absl::Status Suspend() override {
    RETURN_IF_ERROR(writes_.Wait());
    return writer_->Suspend();
  }

  absl::StatusOr<std::unique_ptr<OutputFile>> CreateScratch(absl::string_view name) override {
    ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file,
                     writer_->output().CreateFile(absl::StrCat(kScratch, name)));
    RETURN_IF_ERROR(file->Truncate(0));
    return file;
  }
  absl::StatusOr<std::shared_ptr<const File>> OpenScratch(absl::string_view name) const override {
    return writer_->output().OpenFile(absl::StrCat(kScratch, name));
  }
  absl::Status RemoveScratch(absl::string_view name) override {
    return writer_->output().RemoveFile(absl::StrCat(kScratch, name));
  }
  std::vector<std::string> ScratchFiles() const override {
    std::vector<std::string> names;
    for (const std::string& name : writer_->output().List()) {
      absl::string_view rest = name;
      if (absl::ConsumePrefix(&rest, kScratch)) names.emplace_back(rest);
    }
    return names;
  }

 private:
  // With what the quantization_config says of the stored tensors.
  absl::StatusOr<std::string> ConfigJson() const {
    if (plan_.codec == nullptr || plan_.quantization_config.empty()) return plan_.config_json;
    ASSIGN_OR_RETURN(const std::string config,
                     plan_.codec->ConfigOfStored(plan_.quantization_config, writer_->stored()));
    return WriteHfConfig(plan_.output, config);
  }

  const JobPlan& plan_;
  std::unique_ptr<CheckpointFolderWriter> writer_;
  WorkQueue writes_;  // bytes; after writer_, which they use
};

std::map<std::string, std::string> HeaderTexts(const JobPlan& plan) {
  if (plan.codec == nullptr) return {};
  std::vector<WrittenParameter> parameters;
  for (const PlannedParameter& parameter : plan.parameters) {
    parameters.push_back({parameter.source.name, parameter.source.shape, parameter.kept_dtype,
                          parameter.scheme != nullptr});
  }
  return plan.codec->HeaderTexts(parameters);
}

// Upper bound of the safetensors header: a name, a dtype, a shape and two offsets for every tensor,
// and the texts, in which every quote is escaped.
uint64_t HeaderBytes(const JobPlan& plan, const std::map<std::string, std::string>& texts) {
  uint64_t bytes = 1024;
  for (const auto& [key, text] : texts) bytes += key.size() + 2 * text.size() + 8;
  for (const PlannedParameter& parameter : plan.parameters) {
    const int tensors = parameter.scheme ? plan.codec->max_tensors_per_matrix() : 1;
    bytes += tensors * (parameter.source.name.size() + 144);
  }
  return bytes;
}

// Upper bound of the output, for the check of free space.
uint64_t ExpectedBytes(const JobPlan& plan) {
  uint64_t bytes = plan.scratch_bytes;
  for (const PlannedParameter& parameter : plan.parameters) {
    const uint64_t elements = static_cast<uint64_t>(NumElements(parameter.source.shape));
    bytes += parameter.scheme ? elements / 2 : elements * SizeOf(parameter.kept_dtype);
  }
  return bytes;
}

// Whether a file lies beside the index: whoever reads it finds the tensors by the index, also those
// of a single shard.
bool HasIndexFile(const JobPlan& plan) {
  return std::any_of(plan.side_files.begin(), plan.side_files.end(), [](const auto& file) {
    return absl::StartsWith(file.first, "model.safetensors.index.json.");
  });
}

}  // namespace

uint64_t WriteLimit(const JobPlan& plan) {
  uint64_t limit = uint64_t{64} << 20;
  for (const PlannedParameter& parameter : plan.parameters) {
    limit = std::max(limit, parameter.source.stored_bytes);
  }
  return limit;
}

absl::StatusOr<std::unique_ptr<OutputFile>> CheckpointSink::CreateScratch(absl::string_view) {
  return absl::UnimplementedError("this output has no place for files of a job");
}
absl::StatusOr<std::shared_ptr<const File>> CheckpointSink::OpenScratch(absl::string_view) const {
  return absl::UnimplementedError("this output has no place for files of a job");
}
absl::Status CheckpointSink::RemoveScratch(absl::string_view) { return absl::OkStatus(); }

absl::StatusOr<std::unique_ptr<CheckpointSink>> CreateFolderSink(
    std::shared_ptr<const ModelRoot> root, const JobPlan& plan, const OutputOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<AtomicOutput> output,
                   AtomicOutput::Create(std::move(root), options.name,
                                        {.kind = AtomicOutput::Kind::kFolder,
                                         .overwrite = options.overwrite,
                                         .keep_partial = options.resume,
                                         .expected_bytes = ExpectedBytes(plan)}));
  std::map<std::string, std::string> texts = HeaderTexts(plan);
  const uint64_t header_bytes = HeaderBytes(plan, texts);
  ASSIGN_OR_RETURN(
      std::unique_ptr<CheckpointFolderWriter> writer,
      CheckpointFolderWriter::Create(std::move(output), {.max_shard_bytes = options.max_shard_bytes,
                                                         .header_reserve = header_bytes,
                                                         .fingerprint = plan.fingerprint,
                                                         .resume = options.resume,
                                                         .metadata = std::move(texts),
                                                         .always_index = HasIndexFile(plan)}));
  return std::make_unique<FolderSink>(plan, std::move(writer));
}

}  // namespace quantd

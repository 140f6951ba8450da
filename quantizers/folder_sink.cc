#include "absl/strings/str_cat.h"
#include "formats/huggingface/checkpoint_folder.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

class FolderSink final : public CheckpointSink {
 public:
  FolderSink(const JobPlan& plan, std::unique_ptr<CheckpointFolderWriter> writer)
      : plan_(plan), writer_(std::move(writer)) {}

  bool IsComplete(const PlannedParameter& parameter) const override {
    return writer_->IsComplete(parameter.source.name);
  }

  absl::Status WritePlain(const PlannedParameter& parameter, const TensorView& tensor) override {
    RETURN_IF_ERROR(writer_->Add(parameter.source.name, tensor));
    return writer_->CompleteGroup(parameter.source.name);
  }

  absl::Status WriteQuantized(const PlannedParameter& parameter,
                              const QuantizedTensor& weight) override {
    ASSIGN_OR_RETURN(const std::vector<NamedTensor> tensors, plan_.codec->Encode(weight));
    const std::string module = SplitParameterName(parameter.source.name).module;
    for (const NamedTensor& named : tensors) {
      RETURN_IF_ERROR(writer_->Add(absl::StrCat(module, ".", named.name), named.tensor));
    }
    return writer_->CompleteGroup(parameter.source.name);
  }

  absl::StatusOr<uint64_t> Finish() override {
    for (const auto& [name, content] : plan_.side_files) {
      RETURN_IF_ERROR(writer_->WriteSideFile(name, content));
    }
    return writer_->Finish(plan_.config_json);
  }

  absl::Status Suspend() override { return writer_->Suspend(); }

 private:
  const JobPlan& plan_;
  std::unique_ptr<CheckpointFolderWriter> writer_;
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
  uint64_t bytes = 0;
  for (const PlannedParameter& parameter : plan.parameters) {
    const uint64_t elements = static_cast<uint64_t>(NumElements(parameter.source.shape));
    bytes += parameter.scheme ? elements / 2 : elements * SizeOf(parameter.kept_dtype);
  }
  return bytes;
}

}  // namespace

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
                                                         .metadata = std::move(texts)}));
  return std::make_unique<FolderSink>(plan, std::move(writer));
}

}  // namespace quantd

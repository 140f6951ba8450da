#include "quantizers/pipeline.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/product_device.h"
#include "quantizers/block_job.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/job.h"
#include "quantizers/stage_values.h"

namespace quantd {
namespace {

uint64_t HashOf(std::span<const float> values) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const std::byte b : std::as_bytes(values)) {
    hash = (hash ^ static_cast<uint64_t>(b)) * 0x100000001b3u;
  }
  return hash;
}

// Identifies a job for a resume: same source, same recipe, same output options.
std::string Fingerprint(const ModelSource& source, const JobPlan& plan, absl::string_view what,
                        const OutputOptions& options) {
  std::string print = absl::StrCat(what, "|", source.quantization(), "|", source.stored_bytes(),
                                   "|", options.max_shard_bytes, "|", options.zero_nonfinite);
  for (const PlannedParameter& parameter : plan.parameters) {
    absl::StrAppend(&print, "|", parameter.source.name, ToString(parameter.source.shape),
                    parameter.source.stored_as, static_cast<int>(parameter.kept_dtype),
                    parameter.scheme ? parameter.scheme->Describe() : "");
    if (!parameter.inputs.importance.empty()) {
      absl::StrAppend(&print, "|", HashOf(parameter.inputs.importance));
    }
  }
  return print;
}

absl::StatusOr<QuantizeReport> RunFolderJob(std::shared_ptr<const ModelRoot> root,
                                            const ModelSource& source, JobPlan plan,
                                            absl::string_view what, const OutputOptions& output,
                                            JobControl& control) {
  plan.fingerprint = Fingerprint(source, plan, what, output);
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointSink> sink, CreateFolderSink(root, plan, output));
  return Job(source, plan, output, *sink, control).Run();
}

absl::StatusOr<QuantizeReport> RunCalibratedJob(std::shared_ptr<const ModelRoot> root,
                                                const ModelSource& source, JobPlan plan,
                                                const std::string& what, const Recipe& recipe,
                                                const CalibrationData& calibration,
                                                const OutputOptions& output, JobControl& control) {
  const CalibrationSpec spec = *recipe.calibration();
  const std::string calibrated =
      absl::StrCat(what, "|", calibration.identity, "|", spec.true_sequential,
                   spec.quantized_inputs, spec.both_inputs);
  plan.fingerprint = Fingerprint(source, plan, calibrated, output);
  // What enters a block and what leaves it.
  plan.scratch_bytes = calibration.expected_tokens * calibration.model->hidden_size() *
                       sizeof(float) * (spec.both_inputs ? 4 : 2);
  const ModelConfig& config = source.config();
  const int64_t hidden = config.hidden_size;
  const int64_t wide =
      std::max(config.intermediate_size, config.num_attention_heads * config.head_dim);
  if (recipe.block_solver() == nullptr) {
    plan.scratch_bytes += StageValues::DiskBytes(calibration.expected_tokens, hidden, wide);
  } else {
    // At most what one kind of linear reads and what the block makes of it (SequenceStore).
    plan.scratch_bytes +=
        calibration.expected_tokens * static_cast<uint64_t>(hidden + wide) * sizeof(float);
  }
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointSink> sink, CreateFolderSink(root, plan, output));
  Job job(source, plan, output, *sink, control);
  BlockJob blocks(job, plan, recipe, *sink, calibration);
  const auto run = [&]() -> absl::Status {
    const absl::Status status = blocks.Run();
    const bool lost_device = calibration.device != nullptr && absl::IsUnavailable(status);
    return lost_device ? job.Interrupted(status) : status;
  };
  ASSIGN_OR_RETURN(QuantizeReport report, job.Run(run));
  report.calibration_device = calibration.device != nullptr ? calibration.device->id() : "cpu";
  return report;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Recipe>> ReadImportance(const ModelRoot& root,
                                                             std::shared_ptr<const Recipe> recipe) {
  const std::string name = recipe->importance_file();
  if (name.empty()) return recipe;
  ASSIGN_OR_RETURN(std::shared_ptr<const File> file, root.directory().OpenFile(name));
  ASSIGN_OR_RETURN(ImportanceMatrix matrix, ReadImportanceMatrix(std::move(file)));
  return recipe->WithImportance(std::make_shared<const ImportanceMatrix>(std::move(matrix)));
}

absl::StatusOr<QuantizeReport> QuantizeCheckpoint(std::shared_ptr<const ModelRoot> root,
                                                  absl::string_view model, const Recipe& recipe,
                                                  const OutputOptions& output, JobControl& control,
                                                  const CalibrationData* calibration) {
  RETURN_IF_ERROR(CheckModelName(output.name));
  ASSIGN_OR_RETURN(root, root->StoppedBy([&control] { return control.cancel.load(); }));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenModelSource(root, model));
  if (recipe.gguf_policy() == nullptr) {
    ASSIGN_OR_RETURN(JobPlan plan, PlanFolderJob(*source, &recipe, std::nullopt));
    const std::string what =
        absl::StrCat(recipe.method(), recipe.QuantizationConfig(source->config()));
    if (!recipe.calibration()) {
      return RunFolderJob(root, *source, std::move(plan), what, output, control);
    }
    if (calibration == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(recipe.method(), " needs a calibration set"));
    }
    return RunCalibratedJob(root, *source, std::move(plan), what, recipe, *calibration, output,
                            control);
  }
  OutputOptions gguf = output;
  if (!absl::EndsWith(gguf.name, ".gguf")) gguf.name += ".gguf";
  ASSIGN_OR_RETURN(JobPlan plan, PlanGgufJob(*source, recipe, model));
  plan.fingerprint = Fingerprint(*source, plan, recipe.gguf_policy()->name(), gguf);
  ASSIGN_OR_RETURN(std::unique_ptr<CheckpointSink> sink, CreateGgufSink(root, plan, gguf));
  return Job(*source, plan, gguf, *sink, control).Run();
}

absl::StatusOr<QuantizeReport> DequantizeCheckpoint(std::shared_ptr<const ModelRoot> root,
                                                    absl::string_view model, DType dtype,
                                                    const OutputOptions& output,
                                                    JobControl& control) {
  RETURN_IF_ERROR(CheckModelName(output.name));
  ASSIGN_OR_RETURN(root, root->StoppedBy([&control] { return control.cancel.load(); }));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenModelSource(root, model));
  ASSIGN_OR_RETURN(JobPlan plan, PlanFolderJob(*source, nullptr, dtype));
  return RunFolderJob(root, *source, std::move(plan), "dequantize", output, control);
}

}  // namespace quantd

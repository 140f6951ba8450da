#include "service/calibration.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/backend.h"
#include "kernels/product_device.h"
#include "models/calibration/block_model.h"
#include "models/calibration/calibration_set.h"
#include "models/importance.h"
#include "quantizers/finite_source.h"
#include "service/status.h"

namespace quantd {
namespace {

// A model writes slowly: less than a text would be cut into.
constexpr int64_t kOwnSamples = 64, kOwnLength = 512;
constexpr uint64_t kOwnSeed = 0;

std::string IdentityOf(const TokenSequences& sequences) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const std::vector<int32_t>& sequence : sequences) {
    hash = (hash ^ sequence.size()) * 0x100000001b3u;
    for (const int32_t id : sequence) hash = (hash ^ static_cast<uint32_t>(id)) * 0x100000001b3u;
  }
  return absl::StrCat("text ", sequences.size(), " ", hash);
}

// The model as the job sees it. Reads end with CANCELLED when `control` says so.
absl::StatusOr<std::unique_ptr<ModelSource>> SourceOf(const CalibrationJob& job,
                                                      const JobControl& control) {
  ASSIGN_OR_RETURN(auto root, job.root->StoppedBy([&control] { return control.cancel.load(); }));
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, OpenModelSource(root, job.model));
  return job.zero_nonfinite ? WithZerosForNonFinite(std::move(source)) : std::move(source);
}

// The device that was asked for, or the model's where its products have the CPU's bits.
absl::StatusOr<std::string> DeviceOf(const CalibrationJob& job, const ModelSource& source,
                                     int64_t positions, std::vector<std::string>& warnings) {
  const auto check = [&](const std::string& name) -> absl::StatusOr<std::string> {
    ASSIGN_OR_RETURN(const std::unique_ptr<ProductDevice> device, OpenProductDevice(name));
    if (device == nullptr) return "cpu";
    RETURN_IF_ERROR(CheckProductRoom(source.config(), positions, *device));
    return device->id();
  };
  if (job.device == "auto") {
    const absl::StatusOr<std::string> found = check(ResolveDevice(job.device));
    return found.ok() ? *found : "cpu";
  }
  if (!job.device.empty()) return check(job.device);
  if (job.loaded_on.empty()) return "cpu";
  const absl::StatusOr<std::string> found = check(job.loaded_on);
  if (found.ok()) return *found;
  warnings.push_back(absl::StrCat("calibrated on the CPU: ", found.status().message()));
  return "cpu";
}

std::shared_ptr<const Recipe> With(const CalibrationJob& job, ImportanceMatrix matrix) {
  return job.recipe->WithImportance(std::make_shared<const ImportanceMatrix>(std::move(matrix)));
}

absl::Status Save(const CalibrationJob& job, const ImportanceMatrix& matrix) {
  const std::string name = job.recipe->importance_output();
  if (name.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(
      const std::unique_ptr<AtomicOutput> output,
      AtomicOutput::Create(job.root, name,
                           {.kind = AtomicOutput::Kind::kSingleFile, .overwrite = job.overwrite}));
  ASSIGN_OR_RETURN(std::unique_ptr<OutputFile> file, output->CreateFile(name));
  RETURN_IF_ERROR(WriteImportanceMatrix(matrix, std::move(file)));
  return output->Commit();
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Recipe>> PlanCalibration(const CalibrationJob& job,
                                                              const ModelSource& source) {
  const std::string output = job.recipe->importance_output();
  if (job.text.empty()) {
    if (output.empty()) return job.recipe;
    return FieldError("calibration", "is required by the option save_imatrix");
  }
  RETURN_IF_ERROR(ParseCalibrationText(job.text).status());
  if (job.recipe->calibration()) return job.recipe;
  if (!job.recipe->importance_file().empty()) {
    return FieldError("calibration", "and the option imatrix exclude each other");
  }
  std::shared_ptr<const Recipe> recipe = With(job, UniformImportance(source));
  if (recipe == nullptr) {
    return FieldError("calibration", absl::StrCat("method ", job.recipe->method(),
                                                  " measures nothing: leave it "
                                                  "out"));
  }
  if (!output.empty() && !job.overwrite && job.root->directory().Contains(output)) {
    return absl::AlreadyExistsError(
        absl::StrCat(output, " exists; choose another name for save_imatrix or set overwrite"));
  }
  return recipe;
}

absl::StatusOr<std::shared_ptr<const Recipe>> RunCalibration(const CalibrationJob& job,
                                                             JobControl& control) {
  if (job.text.empty() || job.recipe->calibration()) return job.recipe;
  ASSIGN_OR_RETURN(const CalibrationText parsed, ParseCalibrationText(job.text));
  const std::string text = absl::StrJoin(parsed.samples, "\n");
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, SourceOf(job, control));
  ImportanceOptions options;
  options.memory_limit_bytes = job.memory_limit;
  options.cancelled = [&control] { return control.cancel || control.drain; };
  options.on_progress = [&control](int64_t done, int64_t total) {
    QuantizeProgress progress;
    progress.tensor = absl::StrCat("calibration, chunk ", done, " of ", total);
    if (control.on_progress) control.on_progress(progress);
  };
  absl::StatusOr<ImportanceMatrix> matrix = MeasureImportance(std::move(source), text, options);
  if (absl::IsCancelled(matrix.status()) && !control.cancel) {
    return absl::AbortedError("the server is shutting down; send the request with resume to go on");
  }
  RETURN_IF_ERROR(matrix.status());
  matrix->datasets = {"calibration text"};
  RETURN_IF_ERROR(Save(job, *matrix));
  return With(job, *std::move(matrix));
}

absl::StatusOr<std::optional<BlockCalibration>> PlanBlockCalibration(const CalibrationJob& job,
                                                                     const ModelSource& source) {
  std::optional<CalibrationSpec> spec = job.recipe->calibration();
  for (const auto& [field, value] : {std::pair{"nsamples", job.nsamples}, {"seqlen", job.seqlen}}) {
    if (value < 0) return FieldError(field, "must not be negative");
    if (value > 0 && !spec) {
      return FieldError(field, absl::StrCat("method ", job.recipe->method(),
                                            " is not calibrated block by block: leave it out"));
    }
  }
  if (!spec && !job.device.empty()) {
    return FieldError("device", absl::StrCat("method ", job.recipe->method(),
                                             " is not calibrated block by block: leave it out"));
  }
  if (!spec) return std::nullopt;
  if (job.nsamples > 0) spec->nsamples = job.nsamples;
  if (job.seqlen > 0) spec->seqlen = job.seqlen;
  const int64_t context = LongestSequence(source.config());
  if (job.seqlen > context) {
    return FieldError("seqlen", absl::StrCat(job.seqlen, " is beyond the model's context of ",
                                             context, " tokens"));
  }
  BlockCalibration plan;
  plan.spec = FitToModel(source, *spec, plan.warnings);
  if (!job.text.empty()) {
    ASSIGN_OR_RETURN(const CalibrationText text, ParseCalibrationText(job.text));
    ASSIGN_OR_RETURN(CalibrationSet set, CutCalibrationText(source, text, plan.spec));
    plan.identity = IdentityOf(set.sequences);
    plan.sequences = std::make_shared<const TokenSequences>(std::move(set.sequences));
    plan.warnings.insert(plan.warnings.end(), set.warnings.begin(), set.warnings.end());
    ASSIGN_OR_RETURN(plan.device, DeviceOf(job, source, plan.spec.seqlen, plan.warnings));
    return plan;
  }
  if (job.nsamples == 0) plan.spec.nsamples = std::min(plan.spec.nsamples, kOwnSamples);
  if (job.seqlen == 0) plan.spec.seqlen = std::min(plan.spec.seqlen, kOwnLength);
  plan.identity = absl::StrCat("own ", plan.spec.nsamples, " ", plan.spec.seqlen, " ", kOwnSeed);
  plan.warnings.push_back(
      absl::StrCat("no calibration text was given: calibrated on ", plan.spec.nsamples,
                   " sequences of ", plan.spec.seqlen, " tokens ",
                   source.config().is_encoder() ? "drawn at random" : "that the model wrote itself",
                   " (seed ", kOwnSeed, ")"));
  ASSIGN_OR_RETURN(plan.device, DeviceOf(job, source, plan.spec.seqlen, plan.warnings));
  return plan;
}

absl::StatusOr<CalibrationData> StartBlockCalibration(const CalibrationJob& job,
                                                      const BlockCalibration& plan,
                                                      JobControl& control) {
  const auto stopped = [&control] { return control.cancel || control.drain; };
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, SourceOf(job, control));
  CalibrationData data;
  ASSIGN_OR_RETURN(data.device, OpenProductDevice(plan.device));
  ASSIGN_OR_RETURN(data.model, OpenBlockModel(std::move(source), {.positions = plan.spec.seqlen,
                                                                  .stopped = stopped,
                                                                  .device = data.device}));
  data.expected_tokens = static_cast<uint64_t>(plan.spec.nsamples * plan.spec.seqlen);
  data.identity = plan.identity;
  data.warnings = plan.warnings;
  data.sequences = [job, plan, stopped, &control]() -> absl::StatusOr<TokenSequences> {
    if (plan.sequences != nullptr) return *plan.sequences;
    ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> own, SourceOf(job, control));
    return WriteOwnText(
        std::move(own), plan.spec,
        {.seed = kOwnSeed, .memory_limit_bytes = job.memory_limit, .stopped = stopped});
  };
  return data;
}

}  // namespace quantd

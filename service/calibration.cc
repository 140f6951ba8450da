#include "service/calibration.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "models/importance.h"
#include "service/status.h"

namespace quantd {
namespace {

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
  if (job.text.empty()) return job.recipe;
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, OpenModelSource(job.root, job.model));
  ImportanceOptions options;
  options.memory_limit_bytes = job.memory_limit;
  options.cancelled = [&control] { return control.cancel || control.drain; };
  options.on_progress = [&control](int64_t done, int64_t total) {
    QuantizeProgress progress;
    progress.tensor = absl::StrCat("calibration, chunk ", done, " of ", total);
    if (control.on_progress) control.on_progress(progress);
  };
  absl::StatusOr<ImportanceMatrix> matrix = MeasureImportance(std::move(source), job.text, options);
  if (absl::IsCancelled(matrix.status()) && !control.cancel) {
    return absl::AbortedError("the server is shutting down; send the request with resume to go on");
  }
  RETURN_IF_ERROR(matrix.status());
  matrix->datasets = {"calibration text"};
  RETURN_IF_ERROR(Save(job, *matrix));
  return With(job, *std::move(matrix));
}

}  // namespace quantd

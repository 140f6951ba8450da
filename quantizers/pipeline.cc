#include "quantizers/pipeline.h"

#include <chrono>
#include <cmath>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/parameter_names.h"
#include "quantizers/plain_weight.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t PeakResidentBytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    uint64_t kib;
    if (absl::StartsWith(line, "VmHWM:") &&
        absl::SimpleAtoi(line.substr(6, line.size() - 6 - 3), &kib)) {
      return kib * 1024;
    }
  }
  return 0;
}

// Starts a new measurement of the peak (see proc(5), clear_refs); without the right to, the peak is
// the process's whole life.
void ResetPeakResident() { std::ofstream("/proc/self/clear_refs") << "5"; }

// Runs a plan: one parameter at a time through scheme and sink, watching the controls.
class Job {
 public:
  Job(const ModelSource& source, const JobPlan& plan, const OutputOptions& options,
      CheckpointSink& sink, JobControl& control)
      : source_(source), plan_(plan), options_(options), sink_(sink), control_(control) {
    progress_.tensors_total = static_cast<int64_t>(plan.parameters.size());
    for (const PlannedParameter& parameter : plan.parameters) {
      progress_.bytes_total += parameter.source.stored_bytes;
    }
  }

  absl::StatusOr<QuantizeReport> Run() {
    const Clock::time_point start = Clock::now();
    ResetPeakResident();
    for (const PlannedParameter& parameter : plan_.parameters) {
      if (control_.cancel || control_.drain) return Stopped();
      RETURN_IF_ERROR(Process(parameter));
    }
    if (control_.cancel) return absl::CancelledError("the operation was cancelled");
    ASSIGN_OR_RETURN(report_.output_bytes, sink_.Finish());
    Summarize(std::chrono::duration<double>(Clock::now() - start).count());
    return std::move(report_);
  }

 private:
  absl::Status Stopped() {
    if (control_.cancel) return absl::CancelledError("the operation was cancelled");
    RETURN_IF_ERROR(sink_.Suspend());
    return absl::AbortedError("the server is shutting down; send the request with resume to go on");
  }

  absl::Status Process(const PlannedParameter& parameter) {
    progress_.relative_error = -1;
    if (!sink_.IsComplete(parameter)) {
      ASSIGN_OR_RETURN(Weight weight, source_.Read(parameter.source.name));
      if (HasPlannedBlocks(parameter)) {
        RETURN_IF_ERROR(CopyBlocks(parameter, std::move(weight)));
        return Done(parameter);
      }
      const std::string& name = parameter.source.name;
      RETURN_IF_ERROR(CheckCanBePlain(name, weight, HasBias(source_, name)));
      if (parameter.source.is_quantized) ++requantized_;
      Tensor tensor = ToPlain(std::move(weight), ConversionDType(parameter));
      ASSIGN_OR_RETURN(tensor, Reorder(parameter, std::move(tensor)));
      RETURN_IF_ERROR(CheckValues(parameter, tensor));
      RETURN_IF_ERROR(parameter.scheme ? Quantize(parameter, tensor) : Keep(parameter, tensor));
    }
    return Done(parameter);
  }

  absl::Status Done(const PlannedParameter& parameter) {
    progress_.tensors_done++;
    progress_.bytes_done += parameter.source.stored_bytes;
    progress_.tensor = parameter.source.name;
    if (control_.on_progress) control_.on_progress(progress_);
    return absl::OkStatus();
  }

  // A GGUF tensor that has the planned type is copied block by block, as llama_model_quantize does.
  static bool HasPlannedBlocks(const PlannedParameter& parameter) {
    return parameter.scheme != nullptr && !parameter.gguf_name.empty() &&
           parameter.source.is_quantized &&
           parameter.source.stored_as ==
               FindGgmlType(static_cast<uint32_t>(parameter.gguf_type))->name;
  }

  absl::Status CopyBlocks(const PlannedParameter& parameter, Weight weight) {
    const std::vector<int64_t> order = RowOrderToGguf(source_.config(), parameter.source.name);
    ASSIGN_OR_RETURN(weight, PermuteRows(std::move(weight), order));
    const auto& blocks = std::get<QuantizedTensor>(weight);
    report_.layers.push_back({.name = parameter.source.name,
                              .scheme = absl::StrCat("kept (", parameter.source.stored_as, ")"),
                              .rows = blocks.rows,
                              .cols = blocks.cols,
                              .bits_per_weight = blocks.bits_per_weight()});
    return sink_.WriteQuantized(parameter, blocks);
  }

  // GGUF schemes see float32, as llama_model_quantize does; others the model's dtype.
  static DType ConversionDType(const PlannedParameter& parameter) {
    return parameter.scheme && !parameter.gguf_name.empty() ? DType::kF32 : parameter.kept_dtype;
  }

  absl::StatusOr<Tensor> Reorder(const PlannedParameter& parameter, Tensor tensor) const {
    if (parameter.gguf_name.empty()) return tensor;
    const std::vector<int64_t> order = RowOrderToGguf(source_.config(), parameter.source.name);
    if (order.empty()) return tensor;
    ASSIGN_OR_RETURN(Weight permuted, PermuteRows(Weight(std::move(tensor)), order));
    return std::get<Tensor>(std::move(permuted));
  }

  absl::Status CheckValues(const PlannedParameter& parameter, Tensor& tensor) {
    if (!options_.zero_nonfinite) return CheckFinite(parameter.source.name, tensor);
    if (!InfoOf(tensor.dtype).is_float) return absl::OkStatus();
    if (const int64_t zeroed = ZeroNonFinite(tensor); zeroed > 0) {
      report_.warnings.push_back(
          absl::StrCat(parameter.source.name, ": ", zeroed, " non-finite values set to 0"));
    }
    return absl::OkStatus();
  }

  absl::Status Quantize(const PlannedParameter& parameter, const Tensor& tensor) {
    SolverControl solver{.stopped = [this] { return control_.cancel || control_.drain; },
                         .warnings = {}};
    InputStats inputs = parameter.inputs;
    inputs.control = &solver;
    absl::StatusOr<QuantizedTensor> quantized = parameter.scheme->Quantize(tensor, &inputs);
    for (const std::string& warning : solver.warnings) {
      report_.warnings.push_back(absl::StrCat(parameter.source.name, ": ", warning));
    }
    if (absl::IsCancelled(quantized.status())) return Stopped();
    if (!quantized.ok()) {
      return absl::Status(quantized.status().code(),
                          absl::StrCat(parameter.source.name, ": ", quantized.status().message()));
    }
    progress_.relative_error = RelativeError(tensor, *quantized);
    report_.layers.push_back({.name = parameter.source.name,
                              .scheme = parameter.scheme->Describe(),
                              .rows = quantized->rows,
                              .cols = quantized->cols,
                              .bits_per_weight = quantized->bits_per_weight(),
                              .relative_error = progress_.relative_error});
    const double elements = static_cast<double>(quantized->rows) * quantized->cols;
    error_sum_ += progress_.relative_error * elements;
    error_weight_ += elements;
    return sink_.WriteQuantized(parameter, *quantized);
  }

  absl::Status Keep(const PlannedParameter& parameter, const Tensor& tensor) {
    const int64_t rows = tensor.shape.empty() ? 1 : tensor.shape[0];
    report_.layers.push_back(
        {.name = parameter.source.name,
         .scheme = absl::StrCat("kept (", InfoOf(tensor.dtype).safetensors_name, ")"),
         .rows = rows,
         .cols = rows > 0 ? tensor.view().elements() / rows : 0,
         .bits_per_weight = 8.0 * SizeOf(tensor.dtype)});
    return sink_.WritePlain(parameter, tensor);
  }

  void Summarize(double seconds) {
    double elements = 0;
    for (const PlannedParameter& parameter : plan_.parameters) {
      elements += static_cast<double>(NumElements(parameter.source.shape));
    }
    report_.output_name = options_.name;
    report_.source_bytes = source_.stored_bytes();
    report_.bits_per_weight = elements > 0 ? 8.0 * report_.output_bytes / elements : 0;
    report_.seconds = seconds;
    report_.peak_memory_bytes = PeakResidentBytes();
    report_.mean_relative_error = error_weight_ > 0 ? error_sum_ / error_weight_ : 0;
    if (requantized_ > 0 && error_weight_ > 0) {
      report_.warnings.push_back(absl::StrCat("the source is quantized already (",
                                              source_.quantization(),
                                              "): errors are against its "
                                              "dequantized weights"));
    }
  }

  const ModelSource& source_;
  const JobPlan& plan_;
  const OutputOptions& options_;
  CheckpointSink& sink_;
  JobControl& control_;
  QuantizeProgress progress_;
  QuantizeReport report_;
  double error_sum_ = 0, error_weight_ = 0;
  int64_t requantized_ = 0;
};

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
                                                  const OutputOptions& output,
                                                  JobControl& control) {
  RETURN_IF_ERROR(CheckModelName(output.name));
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenModelSource(root, model));
  if (recipe.gguf_policy() == nullptr) {
    ASSIGN_OR_RETURN(JobPlan plan, PlanFolderJob(*source, &recipe, std::nullopt));
    const std::string what =
        absl::StrCat(recipe.method(), recipe.QuantizationConfig(source->config()));
    return RunFolderJob(root, *source, std::move(plan), what, output, control);
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
  ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> source, OpenModelSource(root, model));
  ASSIGN_OR_RETURN(JobPlan plan, PlanFolderJob(*source, nullptr, dtype));
  return RunFolderJob(root, *source, std::move(plan), "dequantize", output, control);
}

}  // namespace quantd

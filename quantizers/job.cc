#include "quantizers/job.h"

#include <algorithm>
#include <chrono>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "formats/mapped_file.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/parameter_names.h"
#include "quantizers/parameter_record.h"
#include "quantizers/plain_weight.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kReadAheadBytes = uint64_t{64} << 20;  // at least one parameter
constexpr size_t kReadPiece = size_t{1} << 20;

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

// A GGUF tensor that has the planned type is copied block by block, as llama_model_quantize does.
bool HasPlannedBlocks(const PlannedParameter& parameter) {
  return parameter.scheme != nullptr && !parameter.gguf_name.empty() &&
         parameter.source.is_quantized &&
         parameter.source.stored_as ==
             FindGgmlType(static_cast<uint32_t>(parameter.gguf_type))->name;
}

// GGUF schemes see float32, as llama_model_quantize does; others the model's dtype.
DType ConversionDType(const PlannedParameter& parameter) {
  return parameter.scheme && !parameter.gguf_name.empty() ? DType::kF32 : parameter.kept_dtype;
}

double BitsPerWeight(size_t bytes, int64_t weights) {
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0;
}

}  // namespace

Job::Job(const ModelSource& source, const JobPlan& plan, const OutputOptions& options,
         CheckpointSink& sink, JobControl& control)
    : source_(source), plan_(plan), options_(options), sink_(sink), control_(control) {
  progress_.tensors_total = static_cast<int64_t>(plan.parameters.size());
  for (const PlannedParameter& parameter : plan.parameters) {
    progress_.bytes_total += parameter.source.stored_bytes;
  }
}

absl::StatusOr<QuantizeReport> Job::Run(const std::function<absl::Status()>& blocks) {
  const Clock::time_point start = Clock::now();
  ResetPeakResident();
  const auto& parameters = plan_.parameters;
  const bool found = !sink_.ScratchFiles().empty() ||
                     std::any_of(parameters.begin(), parameters.end(),
                                 [this](const auto& p) { return sink_.IsComplete(p); });
  if (options_.resume && !found)
    Warn("resume: found no interrupted job of this output; began anew");
  noted_warnings_ = report_.warnings.size();
  for (const PlannedParameter& parameter : plan_.parameters) {
    if (blocks && parameter.layer >= 0) continue;
    if (stopping()) return Stopped();
    if (!blocks) ReadAheadOf(parameter);
    RETURN_IF_ERROR(Process(parameter));
  }
  if (blocks) RETURN_IF_ERROR(blocks());
  if (control_.cancel) return Stopped();
  ASSIGN_OR_RETURN(report_.output_bytes, sink_.Finish());
  Summarize(std::chrono::duration<double>(Clock::now() - start).count());
  return std::move(report_);
}

absl::Status Job::Stopped() {
  if (control_.cancel) return absl::CancelledError("the operation was cancelled");
  RETURN_IF_ERROR(sink_.Suspend());
  return absl::AbortedError("the server is shutting down; send the request with resume to go on");
}

absl::Status Job::Interrupted(const absl::Status& reason) {
  RETURN_IF_ERROR(sink_.Suspend());
  return absl::AbortedError(
      absl::StrCat(reason.message(), "; send the request with resume to go on"));
}

absl::Status Job::Process(const PlannedParameter& parameter) {
  progress_.relative_error = -1;
  if (sink_.IsComplete(parameter)) return Done(parameter);
  if (HasPlannedBlocks(parameter)) {
    ASSIGN_OR_RETURN(Weight weight, source_.Read(parameter.source.name));
    RETURN_IF_ERROR(CopyBlocks(parameter, std::move(weight)));
    return Done(parameter);
  }
  ASSIGN_OR_RETURN(SharedTensor tensor, LendPlain(parameter));
  RETURN_IF_ERROR(parameter.scheme ? Quantize(parameter, tensor)
                                   : Keep(parameter, std::move(tensor)));
  return Done(parameter);
}

void Job::ReadAheadOf(const PlannedParameter& parameter) {
  const auto& parameters = plan_.parameters;
  uint64_t ahead = 0;
  for (auto i = static_cast<size_t>(&parameter - parameters.data()) + 1;
       i < parameters.size() && ahead < kReadAheadBytes; ++i) {
    ahead += parameters[i].source.stored_bytes;
    if (i < next_to_read_) continue;
    next_to_read_ = i + 1;
    std::optional<SharedTensor> lent = source_.Lend(parameters[i].source.name);
    if (!lent || sink_.IsComplete(parameters[i])) continue;
    // Of a file that cannot be read the job hears when it reads itself.
    (void)reader_.Add(1, [this, lent = *std::move(lent)] {
      std::span<const std::byte> left = lent.view.bytes;
      while (!left.empty() && !reader_.stopping()) {
        const size_t size = std::min(kReadPiece, left.size());
        ReadAhead(left.first(size));
        left = left.subspan(size);
      }
      return absl::OkStatus();
    });
  }
}

absl::StatusOr<Tensor> Job::ReadPlain(const PlannedParameter& parameter) {
  ASSIGN_OR_RETURN(const SharedTensor tensor, LendPlain(parameter));
  Tensor copy = ToPlain(CopyOf(tensor.view), ConversionDType(parameter));
  RETURN_IF_ERROR(tensor.CheckIntact());
  return copy;
}

absl::Status Job::Fetch(std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    if (control_.cancel) return absl::CancelledError("the operation was cancelled");
    const size_t size = std::min(kReadPiece, bytes.size());
    Populate(bytes.first(size));
    bytes = bytes.subspan(size);
  }
  return absl::OkStatus();
}

absl::StatusOr<SharedTensor> Job::LendPlain(const PlannedParameter& parameter) {
  ASSIGN_OR_RETURN(SharedTensor tensor,
                   quantd::ReadPlain(source_, parameter.source.name, ConversionDType(parameter),
                                     parameter.scheme, [this] { return control_.cancel.load(); }));
  RETURN_IF_ERROR(Fetch(tensor.view.bytes));
  ASSIGN_OR_RETURN(tensor, Reorder(parameter, std::move(tensor)));
  RETURN_IF_ERROR(CheckValues(parameter, tensor));
  return tensor;
}

absl::Status Job::Done(const PlannedParameter& parameter) {
  if (const auto note = sink_.EarlierNote(parameter)) ReportEarlier(parameter, *note);
  progress_.tensors_done++;
  progress_.bytes_done += parameter.source.stored_bytes;
  progress_.tensor = parameter.source.name;
  if (progress_.tensors_done == progress_.tensors_total) progress_.eta_seconds = 0;
  if (control_.on_progress) control_.on_progress(progress_);
  return absl::OkStatus();
}

void Job::Warn(absl::string_view text) {
  // Blocks that are done again after an interruption say the same again.
  const auto& given = report_.warnings;
  if (std::find(given.begin(), given.end(), text) == given.end()) {
    report_.warnings.emplace_back(text);
  }
}

void Job::Tell(const std::function<void(QuantizeProgress&)>& change) {
  change(progress_);
  if (control_.on_progress) control_.on_progress(progress_);
}

absl::Status Job::CopyBlocks(const PlannedParameter& parameter, Weight weight) {
  const std::vector<int64_t> order = RowOrderToGguf(source_.config(), parameter.source.name);
  ASSIGN_OR_RETURN(weight, PermuteRows(std::move(weight), order));
  const auto& blocks = std::get<QuantizedTensor>(weight);
  return Write(parameter, blocks,
               {.scheme = absl::StrCat("kept (", parameter.source.stored_as, ")")});
}

absl::StatusOr<SharedTensor> Job::Reorder(const PlannedParameter& parameter,
                                          SharedTensor tensor) const {
  if (parameter.gguf_name.empty()) return tensor;
  const std::vector<int64_t> order = RowOrderToGguf(source_.config(), parameter.source.name);
  if (order.empty()) return tensor;
  ASSIGN_OR_RETURN(Weight permuted, PermuteRows(Weight(CopyOf(tensor.view)), order));
  RETURN_IF_ERROR(tensor.CheckIntact());
  return Share(std::get<Tensor>(std::move(permuted)));
}

absl::Status Job::CheckValues(const PlannedParameter& parameter, SharedTensor& tensor) {
  const DType dtype = ConversionDType(parameter);
  const std::string& name = parameter.source.name;
  const absl::Status finite = CheckFinite(name, tensor.view, dtype);
  if (finite.ok()) return absl::OkStatus();
  Tensor copy = ToPlain(CopyOf(tensor.view), dtype);
  RETURN_IF_ERROR(tensor.CheckIntact());
  if (!options_.zero_nonfinite) return finite;
  Warn(absl::StrCat(name, ": ", ZeroNonFinite(copy), " non-finite values set to 0"));
  tensor = Share(std::move(copy));
  return absl::OkStatus();
}

absl::Status Job::Quantize(const PlannedParameter& parameter, const SharedTensor& tensor) {
  SolverControl solver{.stopped = [this] { return stopping(); }, .warnings = {}};
  InputStats inputs = parameter.inputs;
  inputs.control = &solver;
  const absl::StatusOr<QuantizedTensor> quantized =
      parameter.scheme->Quantize(tensor.view, &inputs);
  for (const std::string& warning : solver.warnings) {
    Warn(absl::StrCat(parameter.source.name, ": ", warning));
  }
  if (absl::IsCancelled(quantized.status())) return Stopped();
  if (!quantized.ok()) {
    return absl::Status(quantized.status().code(),
                        absl::StrCat(parameter.source.name, ": ", quantized.status().message()));
  }
  RETURN_IF_ERROR(tensor.CheckIntact());
  return WriteQuantized(parameter, *quantized,
                        {.relative_error = RelativeError(tensor.view, *quantized)});
}

absl::Status Job::WriteQuantized(const PlannedParameter& parameter,
                                 const QuantizedTensor& quantized, LayerReport layer) {
  if (control_.cancel) return Stopped();
  layer.scheme = parameter.scheme->Describe();
  progress_.relative_error = layer.relative_error;
  return Write(parameter, quantized, std::move(layer));
}

absl::Status Job::Write(const PlannedParameter& parameter, const QuantizedTensor& matrix,
                        LayerReport layer) {
  ASSIGN_OR_RETURN(std::vector<NamedTensor> stored, sink_.Encode(parameter, matrix));
  layer.rows = matrix.rows;
  layer.cols = matrix.cols;
  layer.bits_per_weight = BitsPerWeight(StoredBytes(stored), matrix.rows * matrix.cols);
  const std::string note = Report(parameter, std::move(layer));
  return sink_.WriteEncoded(parameter, std::move(stored), note);
}

absl::Status Job::Keep(const PlannedParameter& parameter, SharedTensor tensor) {
  const TensorView& view = tensor.view;
  const int64_t rows = view.shape.empty() ? 1 : view.shape[0];
  const std::string note =
      Report(parameter, {.scheme = absl::StrCat("kept (", InfoOf(view.dtype).safetensors_name, ")"),
                         .rows = rows,
                         .cols = rows > 0 ? view.elements() / rows : 0,
                         .bits_per_weight = BitsPerWeight(view.bytes.size(), view.elements())});
  return sink_.WritePlain(parameter, std::move(tensor), note);
}

std::string Job::Report(const PlannedParameter& parameter, LayerReport layer) {
  layer.name = parameter.source.name;
  const auto first = report_.warnings.begin() + static_cast<ptrdiff_t>(noted_warnings_);
  const std::string note = RecordText({layer, {first, report_.warnings.end()}});
  noted_warnings_ = report_.warnings.size();
  AddLayer(parameter, std::move(layer));
  return note;
}

void Job::ReportEarlier(const PlannedParameter& parameter, absl::string_view note) {
  std::optional<ParameterRecord> record = ParseRecord(parameter.source.name, note);
  if (!record) {
    ++unreported_;
    return;
  }
  for (const std::string& warning : record->warnings) Warn(warning);
  noted_warnings_ = report_.warnings.size();
  AddLayer(parameter, std::move(record->layer));
}

void Job::AddLayer(const PlannedParameter& parameter, LayerReport layer) {
  if (parameter.scheme != nullptr && !HasPlannedBlocks(parameter)) {
    const double elements = static_cast<double>(layer.rows) * static_cast<double>(layer.cols);
    error_sum_ += layer.relative_error * elements;
    error_weight_ += elements;
  }
  report_.layers.push_back(std::move(layer));
}

void Job::Summarize(double seconds) {
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
  const bool requantized =
      std::any_of(plan_.parameters.begin(), plan_.parameters.end(), [](const auto& parameter) {
        return parameter.source.is_quantized && !HasPlannedBlocks(parameter);
      });
  if (requantized && error_weight_ > 0) {
    Warn(absl::StrCat("the source is quantized already (", source_.quantization(),
                      "): errors are against its dequantized weights"));
  }
  if (unreported_ > 0) {
    Warn(absl::StrCat(unreported_,
                      " tensors were written before the resume by a version that "
                      "kept no reports: layers and mean error leave them out"));
  }
}

}  // namespace quantd

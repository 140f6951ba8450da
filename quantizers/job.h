// Runs a plan: one parameter after the other through scheme and sink, watching the controls.
#ifndef QUANTD_QUANTIZERS_JOB_H_
#define QUANTD_QUANTIZERS_JOB_H_

#include "core/shared_tensor.h"
#include "core/status.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/pipeline.h"
#include "quantizers/work_queue.h"

namespace quantd {

class Job {
 public:
  Job(const ModelSource& source, const JobPlan& plan, const OutputOptions& options,
      CheckpointSink& sink, JobControl& control);

  // All parameters of the plan. With `blocks`, those of blocks are left to it: it is called when
  // the others are written.
  absl::StatusOr<QuantizeReport> Run(const std::function<absl::Status()>& blocks = {});

  // The pieces, for jobs that go by blocks.
  bool stopping() const { return control_.cancel || control_.drain; }
  // CANCELLED, or ABORTED with the output left for a resume.
  absl::Status Stopped();
  // ABORTED for that reason, with the output left for a resume.
  absl::Status Interrupted(const absl::Status& reason);
  // The parameter as a plain tensor of the dtype that its scheme sees or it is kept in; checked.
  absl::StatusOr<Tensor> ReadPlain(const PlannedParameter& parameter);
  // The same where it lies, and unconverted if the scheme converts it itself.
  absl::StatusOr<SharedTensor> LendPlain(const PlannedParameter& parameter);
  // What the scheme made of it, with the errors that `layer` holds.
  absl::Status WriteQuantized(const PlannedParameter& parameter, const QuantizedTensor& quantized,
                              LayerReport layer);
  absl::Status Keep(const PlannedParameter& parameter, SharedTensor tensor);
  // Counts it and tells the progress.
  absl::Status Done(const PlannedParameter& parameter);
  // Texts that were given before are passed over.
  void Warn(absl::string_view text);
  // Tells the progress beside what it counts.
  void Tell(const std::function<void(QuantizeProgress&)>& change);

 private:
  // Has bytes that lie in a file read from the disk; CANCELLED in the middle of it.
  absl::Status Fetch(std::span<const std::byte> bytes) const;
  absl::Status Process(const PlannedParameter& parameter);
  absl::Status CopyBlocks(const PlannedParameter& parameter, Weight weight);
  // Has the next parameters read from the disk while `parameter` is worked on.
  void ReadAheadOf(const PlannedParameter& parameter);
  absl::StatusOr<SharedTensor> Reorder(const PlannedParameter& parameter,
                                       SharedTensor tensor) const;
  absl::Status CheckValues(const PlannedParameter& parameter, SharedTensor& tensor);
  absl::Status Quantize(const PlannedParameter& parameter, const SharedTensor& tensor);
  absl::Status Write(const PlannedParameter& parameter, const QuantizedTensor& matrix,
                     LayerReport layer);
  // Into the report: a parameter that is about to be written, with the note for the journal that
  // tells a later run the same; one that an earlier run wrote.
  std::string Report(const PlannedParameter& parameter, LayerReport layer);
  void ReportEarlier(const PlannedParameter& parameter, absl::string_view note);
  void AddLayer(const PlannedParameter& parameter, LayerReport layer);
  void Summarize(double seconds);

  const ModelSource& source_;
  const JobPlan& plan_;
  const OutputOptions& options_;
  CheckpointSink& sink_;
  JobControl& control_;
  QuantizeProgress progress_;
  QuantizeReport report_;
  size_t noted_warnings_ = 0;  // that the journal has, or that are of this run only
  int64_t unreported_ = 0;     // parameters of earlier runs of which nothing is known
  double error_sum_ = 0, error_weight_ = 0;
  size_t next_to_read_ = 0;         // the first parameter that is not read ahead
  WorkQueue reader_{/*limit=*/64};  // parameters
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_JOB_H_

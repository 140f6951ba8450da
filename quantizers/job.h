// Runs a plan: one parameter after the other through scheme and sink, watching the controls.
#ifndef QUANTD_QUANTIZERS_JOB_H_
#define QUANTD_QUANTIZERS_JOB_H_

#include "core/status.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/pipeline.h"

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
  // The parameter as a plain tensor of the dtype that its scheme sees or it is kept in; checked.
  absl::StatusOr<Tensor> ReadPlain(const PlannedParameter& parameter);
  absl::Status WriteQuantized(const PlannedParameter& parameter, const Tensor& weight,
                              const QuantizedTensor& quantized, LayerReport layer = {});
  absl::Status Keep(const PlannedParameter& parameter, const Tensor& tensor);
  // Counts it and tells the progress.
  absl::Status Done(const PlannedParameter& parameter);
  void Warn(absl::string_view text) { report_.warnings.emplace_back(text); }
  // Tells the progress beside what it counts.
  void Tell(const std::function<void(QuantizeProgress&)>& change);

 private:
  absl::Status Process(const PlannedParameter& parameter);
  absl::Status CopyBlocks(const PlannedParameter& parameter, Weight weight);
  absl::StatusOr<Tensor> Reorder(const PlannedParameter& parameter, Tensor tensor) const;
  absl::Status CheckValues(const PlannedParameter& parameter, Tensor& tensor);
  absl::Status Quantize(const PlannedParameter& parameter, const Tensor& tensor);
  void Summarize(double seconds);

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

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_JOB_H_

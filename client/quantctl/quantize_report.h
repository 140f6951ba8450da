// Progress and report of quantize and dequantize.
#ifndef QUANTD_CLIENT_QUANTCTL_QUANTIZE_REPORT_H_
#define QUANTD_CLIENT_QUANTCTL_QUANTIZE_REPORT_H_

#include <memory>

#include "client/quantctl/context.h"
#include "client/quantctl/progress_bar.h"

namespace quantd::ctl {

class JobProgress {
 public:
  explicit JobProgress(const char* label) : bar_(std::make_unique<ProgressBar>(label)) {}
  Client::ProgressCallback callback();
  void End() { bar_.reset(); }

 private:
  std::unique_ptr<ProgressBar> bar_;
};

absl::Status PrintReport(Context& context, const absl::StatusOr<quant::v1::QuantizeReport>& report,
                         JobProgress& progress);
absl::Status PrintStarted(Context& context,
                          const absl::StatusOr<google::longrunning::Operation>& operation);

}  // namespace quantd::ctl

#endif  // QUANTD_CLIENT_QUANTCTL_QUANTIZE_REPORT_H_

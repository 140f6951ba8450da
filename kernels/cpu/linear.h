// Backend::Linear on the compute team.
#ifndef QUANTD_KERNELS_CPU_LINEAR_H_
#define QUANTD_KERNELS_CPU_LINEAR_H_

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/activations.h"
#include "kernels/cpu/kernel_table.h"

namespace quantd::cpu {

RowNorm PlainNorm(const Norm& norm);

// Runs Linear operations one at a time and keeps their buffers between calls.
//
// One team region per call: every thread normalizes and converts its share of the tokens, one
// barrier, then every thread takes one run of panels and finishes each 16 x tokens tile
// (bias, activation, residual) while it is in registers and L1. A single token is converted by
// every thread for itself, which costs less than a barrier. No sum depends on the number of
// threads.
class LinearRunner {
 public:
  explicit LinearRunner(const KernelTable& kernels) : kernels_(kernels) {}
  // INVALID_ARGUMENT when the shapes do not fit together.
  absl::Status Run(const LinearArgs& args);

 private:
  const KernelTable& kernels_;
  // [copy][format]: one copy, or one per thread for a single token.
  std::vector<std::vector<PreparedActivations>> prepared_;
  std::vector<std::vector<float>> scratch_;  // per thread
  std::vector<float> stacked_;               // gate and up that do not lie in equal panels
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_LINEAR_H_

// AWQ over a whole block: column factors are searched where a previous operation can take their
// inverse, then every matrix is clipped and rounded (autoawq 0.2.9, quantize/quantizer.py,
// quantize/scale.py; models/llama.py, mistral.py and qwen2.py for what is scaled by what).
#ifndef QUANTD_QUANTIZERS_METHODS_AWQ_BLOCK_H_
#define QUANTD_QUANTIZERS_METHODS_AWQ_BLOCK_H_

#include <map>
#include <string>
#include <vector>

#include "quantizers/calibrated_block.h"
#include "quantizers/codecs/awq_config.h"
#include "quantizers/solvers/activation_aware.h"

namespace quantd {

struct AwqOptions {
  AwqSpec spec;
  AwqVersion version = AwqVersion::kGemm;
  bool apply_scale = true;  // search column factors and fold them into the previous operation
  bool duo_scaling = true;
  bool apply_clip = true;
};

// Whether upstream clips a linear: not where scores are products of two of them.
bool IsClippedByAwq(absl::string_view module);

// One matrix: clipped by the samples of its inputs where there are any and `clip` says so, rounded,
// and spelled for the version.
absl::StatusOr<QuantizedTensor> QuantizeByAwq(HalfMatrix weight, const AwqOptions& options,
                                              bool clip, const InputStats& inputs);

class AwqBlockSolver : public BlockSolver {
 public:
  explicit AwqBlockSolver(const AwqOptions& options) : options_(options) {}
  // Decoders' norms, v and up projections take the inverse factors, rounded to float16; encoders
  // are clipped only, as upstream scales none.
  absl::StatusOr<std::map<std::string, QuantizedTensor>> Solve(
      CalibratedBlock& block, const BlockInputs& inputs,
      const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const override;
  bool rescales() const override { return true; }

 private:
  const AwqOptions options_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_AWQ_BLOCK_H_

// AWQ's search for the factors by which input channels are scaled: of a group of linears at a time,
// by the error of what the block makes of them. The sequence of steps is AutoAWQ's (0.2.9,
// awq/quantize/quantizer.py, _search_best_scale).
#ifndef QUANTD_QUANTIZERS_METHODS_AWQ_FACTORS_H_
#define QUANTD_QUANTIZERS_METHODS_AWQ_FACTORS_H_

#include <span>
#include <string>
#include <vector>

#include "quantizers/calibrated_block.h"
#include "quantizers/methods/awq_block.h"
#include "quantizers/methods/awq_inputs.h"

namespace quantd {

// What is scaled together: linears that multiply the same values, whose inverse factors go into a
// norm or into the rows of an earlier linear.
struct AwqGroup {
  BlockValue from;
  BlockValue until;
  std::vector<const BlockLinear*> linears;
  std::string norm;                      // full name without ".weight"; or
  const BlockLinear* earlier = nullptr;  // its rows are the linears' columns
  std::vector<float> factors;
};

// The linear's weight as it is, whose values are those of float16.
HalfMatrix HalfWeightOf(CalibratedBlock& block, const BlockLinear& linear);

// Finds group.factors, [cols], from `data`, what the group reads; empty, with a warning, where none
// give finite outputs. The block is as before when it returns. CANCELLED when `control` says stop.
absl::Status SearchAwqFactors(CalibratedBlock& block, const BlockInputs& inputs,
                              AwqGroupInputs data, const AwqOptions& options,
                              SolverControl& control, AwqGroup& group);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_AWQ_FACTORS_H_

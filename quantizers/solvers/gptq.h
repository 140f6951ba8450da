// GPTQ: columns are rounded one after the other, and what each rounding loses is made up for by the
// columns that are still to come, weighed by the inverse of the inputs' second moments (Frantar et
// al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers").
// Every step as gptqmodel 7.7, quantization/gptq.py and quantizer.py, in float32.
#ifndef QUANTD_QUANTIZERS_SOLVERS_GPTQ_H_
#define QUANTD_QUANTIZERS_SOLVERS_GPTQ_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/stop_request.h"
#include "core/tensor.h"

namespace quantd {

struct GptqSpec {
  int bits = 4;             // 2 to 8
  int64_t group_size = -1;  // columns that share a scale, the last group perhaps fewer; -1: rows
  bool sym = true;
  // Columns with the largest inputs first; groups are then made of neighbours in that order, or of
  // the original neighbours with `static_groups`.
  bool desc_act = false;
  bool static_groups = false;
  // Without desc_act: the same order, but inside of the groups, and of the groups as a whole.
  bool act_group_aware = true;
  double damp_percent = 0.05;
  double damp_auto_increment = 0.01;  // 0: a factorization that fails is not tried again
  double mse = 0;                     // above 0: ranges are shrunk to the least sum of |error|^mse
};

// What is known of the inputs.
struct GptqInputs {
  std::span<const float> gram;  // [cols, cols] sum over the tokens of x x^T
  int64_t tokens = 0;
  // Asked now and then; when true, the solver returns CANCELLED. May be empty.
  StopRequest stopped;
};

struct GptqResult {
  // Unsigned codes, scales rounded to float16, whole zero points; with desc_act and no
  // static_groups the columns are in the order of their groups, permuted.
  QuantizedTensor weight;
  // How often damping had to be raised: the share of the mean that went onto the diagonal.
  double damp_percent = 0;
  double diagonal_floor = 0;  // that was added before, 0 in general
};

// FAILED_PRECONDITION when the gram matrix cannot be factored whatever is added to its diagonal.
// Scales beyond float16, which upstream would write as infinity, become its largest number.
absl::StatusOr<GptqResult> SolveGptq(const TensorView& weight, const GptqSpec& spec,
                                     const GptqInputs& inputs);

// The same grids by rounding to nearest: what upstream does to modules that saw no tokens.
absl::StatusOr<QuantizedTensor> RoundToGptqGrid(const TensorView& weight, const GptqSpec& spec);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_GPTQ_H_

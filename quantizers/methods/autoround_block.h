// SignRound over a whole block: rounding offsets and ranges of all its matrices, trained together
// so that the block's outputs stay those of the original (arXiv 2309.05516; auto-round 0.16.1,
// algorithms/quantization/sign_round/quantizer.py).
#ifndef QUANTD_QUANTIZERS_METHODS_AUTOROUND_BLOCK_H_
#define QUANTD_QUANTIZERS_METHODS_AUTOROUND_BLOCK_H_

#include <map>
#include <optional>
#include <string>

#include "kernels/rounded_product.h"
#include "quantizers/calibrated_block.h"
#include "quantizers/codecs/autoround_config.h"
#include "quantizers/scheme.h"
#include "quantizers/solvers/sign_round.h"

namespace quantd {

// How one matrix is stored: its rounding and the packing of the checkpoint.
struct AutoRoundSpelling {
  SignRoundSpec spec;
  AutoRoundPacking packing = AutoRoundPacking::kGptq;
  bool stores_group_index = false;
  bool searches_scale = false;  // without training: opt-rtn
  int64_t iters = 0;            // of training, which only its block can do

  // Marks a rounded matrix; where zero points are stored less one, 0 becomes 1.
  void Spell(QuantizedTensor* weight) const;
};

struct AutoRoundTraining {
  int64_t iters = 200;
  int64_t batch_size = 8;
  double lr = 0;         // 0: 1 / iters; 2 / iters for 3 bits and less in 1000 iterations and more
  double minmax_lr = 0;  // 0: lr
  bool enable_minmax_tuning = true;
  bool enable_quanted_input = true;  // train on what the quantized earlier blocks give
  bool not_use_best_mse = false;     // keep the last instead of the best iteration
  // What products round their operands to while training; none: float32. Upstream's automatic
  // mixed precision is kBFloat16. The noise of kInt8 is far below the error of few bits, and its
  // products are the fastest.
  std::optional<ProductRounding> rounding = ProductRounding::kBFloat16;
  int64_t seed = 42;  // of the order of sequences
};

class AutoRoundScheme : public Scheme {
 public:
  explicit AutoRoundScheme(const AutoRoundSpelling& spelling) : spelling_(spelling) {}
  const AutoRoundSpelling& spelling() const { return spelling_; }

  std::string Describe() const override;
  absl::Status CheckShape(int64_t rows, int64_t cols) const override;
  InputNeeds Needs() const override;
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override;

 private:
  const AutoRoundSpelling spelling_;
};

class AutoRoundBlockSolver : public BlockSolver {
 public:
  explicit AutoRoundBlockSolver(const AutoRoundTraining& training) : training_(training) {}
  // Every scheme is an AutoRoundScheme.
  absl::StatusOr<std::map<std::string, QuantizedTensor>> Solve(
      CalibratedBlock& block, const BlockInputs& inputs,
      const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const override;

 private:
  const AutoRoundTraining training_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_AUTOROUND_BLOCK_H_

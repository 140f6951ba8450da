// Block fine-tuning of AQLM (arXiv 2401.06118, section 3.4; Vahe1994/AQLM e79a896,
// src/finetune.py): codebooks and scales of all linears of a block, its norms and its biases,
// trained by Adam so that the block's outputs are those of the original block on the same inputs.
#ifndef QUANTD_QUANTIZERS_METHODS_AQLM_TUNER_H_
#define QUANTD_QUANTIZERS_METHODS_AQLM_TUNER_H_

#include <map>
#include <string>

#include "quantizers/calibrated_block.h"

namespace quantd {

// Options of main.py under their names, with its defaults.
struct AqlmTuning {
  int finetune_max_epochs = 5;  // 0: no tuning
  int finetune_early_stop = 3;  // epochs without a better validation loss after which it ends
  double finetune_lr = 1e-5;
  int finetune_batch_size = 1;  // sequences
  double finetune_adam_beta1 = 0.9;
  double finetune_adam_beta2 = 0.95;
  int64_t val_size = 0;  // sequences that are kept for validation; the best epoch wins then
  uint64_t seed = 0;     // of the order of sequences
};

class AqlmTuner : public BlockTuner {
 public:
  explicit AqlmTuner(const AqlmTuning& tuning) : tuning_(tuning) {}
  // FAILED_PRECONDITION when the loss grows beyond all bounds.
  absl::Status Tune(CalibratedBlock& block, const BlockInputs& inputs,
                    std::map<std::string, QuantizedTensor>& matrices,
                    SolverControl& control) const override;

 private:
  const AqlmTuning tuning_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHODS_AQLM_TUNER_H_

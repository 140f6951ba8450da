// What a calibrated recipe asks of the calibration, and the model as a calibrated job sees it: one
// block at a time. models/ implements BlockModel.
#ifndef QUANTD_QUANTIZERS_CALIBRATION_H_
#define QUANTD_QUANTIZERS_CALIBRATION_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "quantizers/calibrated_block.h"

namespace quantd {

// Part of a recipe; the defaults are upstream's.
struct CalibrationSpec {
  int64_t nsamples = 128;  // sequences taken from the text, fewer when it has fewer
  int64_t seqlen = 2048;   // tokens of each, at most the model's context
  // Linears of a later stage of a block see inputs that the quantized earlier ones gave.
  bool true_sequential = true;
  // Blocks see the outputs of quantized blocks; false: of the original ones.
  bool quantized_inputs = true;
  // The solver also wants the original's inputs (BlockInputs::Read).
  bool both_inputs = false;
};

class BlockModel {
 public:
  virtual ~BlockModel() = default;
  virtual int64_t blocks() const = 0;
  virtual int64_t hidden_size() const = 0;
  // Full names of all parameters of a block that the checkpoint has.
  virtual std::vector<std::string> ParametersOf(int64_t block) const = 0;
  // The hidden states [tokens, hidden] that enter the first block.
  virtual absl::StatusOr<std::vector<float>> Embed(std::span<const int32_t> tokens) = 0;
  // Reads the weights of a block, the dequantized ones of a source that is quantized.
  virtual absl::StatusOr<std::unique_ptr<CalibratedBlock>> LoadBlock(int64_t block) = 0;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CALIBRATION_H_

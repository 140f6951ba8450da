// A checkpoint one block at a time, for calibration: never more of it in memory than a block's
// weights, or the embedding table while the texts are embedded.
#ifndef QUANTD_MODELS_CALIBRATION_BLOCK_MODEL_H_
#define QUANTD_MODELS_CALIBRATION_BLOCK_MODEL_H_

#include <functional>
#include <memory>

#include "formats/model_config.h"
#include "quantizers/calibration.h"
#include "quantizers/model_source.h"

namespace quantd {

class ProductDevice;  // kernels/product_device.h

struct BlockModelOptions {
  int64_t positions = 0;          // of the longest sequence
  std::function<bool()> stopped;  // runs end early, with values that mean nothing; may be empty
  // That multiplies; null: the CPU. The same bits.
  std::shared_ptr<ProductDevice> device;
};

// CheckCheckpoint has passed. INVALID_ARGUMENT for more positions than the model has.
absl::StatusOr<std::unique_ptr<BlockModel>> OpenBlockModel(std::unique_ptr<ModelSource> source,
                                                           BlockModelOptions options);

// RESOURCE_EXHAUSTED when a device is too small for a block's weights and, of any linear, the
// inputs and outputs of a sequence of so many tokens.
absl::Status CheckProductRoom(const ModelConfig& config, int64_t tokens,
                              const ProductDevice& device);

}  // namespace quantd

#endif  // QUANTD_MODELS_CALIBRATION_BLOCK_MODEL_H_

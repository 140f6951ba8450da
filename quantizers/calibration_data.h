// What a calibrated job runs on: the model block by block, and the calibration set.
#ifndef QUANTD_QUANTIZERS_CALIBRATION_DATA_H_
#define QUANTD_QUANTIZERS_CALIBRATION_DATA_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/status.h"
#include "quantizers/calibration.h"

namespace quantd {

class ProductDevice;  // kernels/product_device.h

using TokenSequences = std::vector<std::vector<int32_t>>;

struct CalibrationData {
  std::shared_ptr<BlockModel> model;
  // That the model and the statistics of inputs multiply on; null: the CPU. The same bytes.
  std::shared_ptr<ProductDevice> device;
  // The set, asked for once; may take long (a model that writes its own text) and is kept beside
  // the output until that is finished, so that a resume sees the same. CANCELLED when the job is.
  std::function<absl::StatusOr<TokenSequences>()> sequences;
  uint64_t expected_tokens = 0;       // about as many as there will be, for the check of free space
  std::string identity;               // of the text and its cut; a resume needs the same
  std::vector<std::string> warnings;  // for the report
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CALIBRATION_DATA_H_

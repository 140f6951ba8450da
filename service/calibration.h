// What a quantization measures on its calibration text before it starts.
#ifndef QUANTD_SERVICE_CALIBRATION_H_
#define QUANTD_SERVICE_CALIBRATION_H_

#include <memory>
#include <string>

#include "quantizers/pipeline.h"

namespace quantd {

struct CalibrationJob {
  std::shared_ptr<const ModelRoot> root;
  std::string model;
  std::string text;  // "": the recipe stays as it is
  std::shared_ptr<const Recipe> recipe;
  uint64_t memory_limit = 0;
  bool overwrite = false;  // the file that the measured matrix is written to
};

// The recipe with stand-ins for what will be measured, to plan with. INVALID_ARGUMENT for a recipe
// that measures nothing, or that has its importance from a file; ALREADY_EXISTS for an output that
// must not be replaced.
absl::StatusOr<std::shared_ptr<const Recipe>> PlanCalibration(const CalibrationJob& job,
                                                              const ModelSource& source);

// Runs the text through the model and gives the recipe what was measured; CANCELLED or ABORTED when
// stopped by control.
absl::StatusOr<std::shared_ptr<const Recipe>> RunCalibration(const CalibrationJob& job,
                                                             JobControl& control);

}  // namespace quantd

#endif  // QUANTD_SERVICE_CALIBRATION_H_

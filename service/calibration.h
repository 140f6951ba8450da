// What a quantization measures on its calibration text, before it starts or block by block.
#ifndef QUANTD_SERVICE_CALIBRATION_H_
#define QUANTD_SERVICE_CALIBRATION_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantizers/calibration_data.h"
#include "quantizers/pipeline.h"

namespace quantd {

struct CalibrationJob {
  std::shared_ptr<const ModelRoot> root;
  std::string model;
  std::string text;  // "": the recipe stays as it is, or the model writes its own
  std::shared_ptr<const Recipe> recipe;
  uint64_t memory_limit = 0;
  int64_t nsamples = 0, seqlen = 0;  // 0: the recipe's
  std::string device;                // as LoadOptions has it; "": `loaded_on`, if it can
  std::string loaded_on;             // where the model is loaded; "": nowhere
  bool overwrite = false;            // the file that the measured matrix is written to
  bool zero_nonfinite = false;       // of the weights, as in OutputOptions
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

// What the blocks of a calibrated recipe will run on.
struct BlockCalibration {
  CalibrationSpec spec;                             // cut to the model
  std::string device;                               // "cpu", "opencl:N"
  std::shared_ptr<const TokenSequences> sequences;  // null: the model writes them
  std::string identity;
  std::vector<std::string> warnings;
};

// nullopt for recipes that are not calibrated by blocks. INVALID_ARGUMENT for a text that is empty,
// not UTF-8 or too short, and for a seqlen beyond the model's context; for a device that was asked
// for INVALID_ARGUMENT, FAILED_PRECONDITION and RESOURCE_EXHAUSTED as in LoadModel.
absl::StatusOr<std::optional<BlockCalibration>> PlanBlockCalibration(const CalibrationJob& job,
                                                                     const ModelSource& source);
absl::StatusOr<CalibrationData> StartBlockCalibration(const CalibrationJob& job,
                                                      const BlockCalibration& plan,
                                                      JobControl& control);

}  // namespace quantd

#endif  // QUANTD_SERVICE_CALIBRATION_H_

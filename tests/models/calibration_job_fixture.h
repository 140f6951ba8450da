// Calibrated jobs on a golden model, with a scheme whose bytes show what it was given.
#ifndef QUANTD_TESTS_MODELS_CALIBRATION_JOB_FIXTURE_H_
#define QUANTD_TESTS_MODELS_CALIBRATION_JOB_FIXTURE_H_

#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "quantizers/calibration_data.h"
#include "quantizers/pipeline.h"

namespace quantd {

using Files = std::map<std::string, std::string>;

// compressed-tensors' 8 bits with FittedScheme for every matrix, or with `solver`.
class FittedRecipe final : public Recipe {
 public:
  FittedRecipe(CalibrationSpec spec, const BlockSolver* solver);
  absl::string_view method() const override { return "fitted"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig& config) const override;
  const Codec* codec() const override { return inner_->codec(); }
  std::string QuantizationConfig(const ModelConfig& config) const override {
    return inner_->QuantizationConfig(config);
  }
  std::optional<CalibrationSpec> calibration() const override { return spec_; }
  const BlockSolver* block_solver() const override { return solver_; }

 private:
  CalibrationSpec spec_;
  const BlockSolver* solver_;
  std::unique_ptr<Recipe> inner_;
  mutable std::map<const Scheme*, std::unique_ptr<Scheme>> made_;
};

// A root with the model as `tiny`; one thread.
class CalibrationJobTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Five sequences of up to 40 tokens.
  CalibrationData Data(const std::string& identity = "a");
  absl::StatusOr<QuantizeReport> Quantize(const std::string& name, bool resume = false,
                                          const CalibrationSpec& spec = {},
                                          const BlockSolver* solver = nullptr);
  absl::StatusOr<QuantizeReport> Quantize(const std::string& name, const Recipe& recipe,
                                          bool resume = false);
  // Whatever the moment at which a job is stopped, one of every `step` from `first` on: resumed, it
  // writes and reports the same as an uninterrupted one.
  void ExpectInterruptionsLeaveNoTrace(const Recipe& recipe, int first, int step);

  Files Read(const std::string& name) const;
  size_t Entries() const;  // of the root

  std::filesystem::path path_;
  std::shared_ptr<const ModelRoot> root_;
  JobControl control_;
  int asked_ = 0;  // for sequences
};

}  // namespace quantd

#endif  // QUANTD_TESTS_MODELS_CALIBRATION_JOB_FIXTURE_H_

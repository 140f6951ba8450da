// A calibrated job: the blocks of a model one after the other, each on what the one before gives.
#ifndef QUANTD_QUANTIZERS_BLOCK_JOB_H_
#define QUANTD_QUANTIZERS_BLOCK_JOB_H_

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quantizers/activations.h"
#include "quantizers/calibration_data.h"
#include "quantizers/input_statistics.h"
#include "quantizers/job.h"
#include "quantizers/stage_values.h"

namespace quantd {

// For every block: statistics of its linears' inputs stage by stage, the solver, the new weights in
// the place of the old ones, the tuner, and the block's outputs for the next. A block's parameters
// are written when all of them are known. After a kill, the first block whose inputs are still
// there is done again; matrices that were written before are not written twice.
class BlockJob {
 public:
  BlockJob(Job& job, const JobPlan& plan, const Recipe& recipe, CheckpointSink& sink,
           const CalibrationData& data);
  absl::Status Run();

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int64_t kErrorTokens = 256;  // that output errors are measured on
  struct Solved {
    QuantizedTensor tensor;
    LayerReport layer;                         // its errors
    std::shared_ptr<InputStatistics> samples;  // that those of outputs were measured on
  };
  using Results = std::map<std::string, Solved>;  // by module

  absl::Status LoadSequences();
  // The first block that is not done, with its inputs open.
  absl::StatusOr<int64_t> FindStart();
  absl::Status EmbedAll();
  absl::Status DoBlock(int64_t index);
  // Linears of one input each, or all at once.
  std::vector<std::vector<BlockLinear>> StagesOf(const CalibratedBlock& block) const;
  absl::Status SolveStages(CalibratedBlock& block, int64_t index, StageValues& values,
                           Results& results);
  absl::Status SolveStage(CalibratedBlock& block, const std::vector<BlockLinear>& stage,
                          StageValues& values, Results& results);
  // In slices short enough to stop in between.
  absl::Status AddInputs(const BlockLinear& linear, std::span<const float> rows,
                         InputStatistics& statistics);
  absl::Status SolveLinear(CalibratedBlock& block, const BlockLinear& linear,
                           const InputStatistics& statistics,
                           std::shared_ptr<InputStatistics> samples, Results& results);
  absl::Status SolveTogether(CalibratedBlock& block, Results& results);
  // The errors of a solved matrix, those of outputs on inputs of its linear, for the report and the
  // progress.
  absl::Status Measure(const BlockLinear& linear, const TensorView& weight,
                       std::span<const float> rows, Solved& of);
  // Errors of matrices that were solved together, on inputs of the unquantized block.
  absl::Status MeasureTogether(CalibratedBlock& block, Results& results);
  // The outputs of the block as it is, for the tuner.
  absl::Status WriteTargets(CalibratedBlock& block, int64_t index);
  // A scratch file of outputs becomes what inputs_ reads targets from.
  absl::Status OpenTargets(const std::string& name);
  absl::Status TuneBlock(CalibratedBlock& block, int64_t index, Results& results);
  absl::Status WriteBlock(CalibratedBlock& block, int64_t index, const Results& results);
  // A parameter that is not quantized, as the solver left it.
  absl::Status WriteKept(CalibratedBlock& block, const PlannedParameter& parameter);
  // The outputs of all sequences, from the inputs; or from what the stages have computed.
  absl::Status RunThrough(CalibratedBlock& block, const std::string& name, bool original);
  absl::Status RunOn(CalibratedBlock& block, const std::string& name, StageValues& values);
  // The inputs of block `next`, by ActivationFile's Open or OpenOwn; those before it go.
  absl::Status OpenNext(int64_t next, decltype(&ActivationFile::Open) open);
  absl::Status Named(const BlockLinear& linear, const absl::Status& status) const;
  void Tell(int64_t index, const std::string& what);
  const PlannedParameter* Find(const std::string& module) const;
  // The matrix that multiplies inputs as they are.
  static void WritePlainRows(const QuantizedTensor& tensor, std::span<float> to);

  Job& job_;
  const CalibrationSpec spec_;
  const BlockSolver* const solver_;
  const BlockTuner* const tuner_;
  CheckpointSink& sink_;
  const CalibrationData& data_;
  BlockModel& model_;
  std::map<std::string, const PlannedParameter*> planned_;    // by name
  std::vector<std::vector<const PlannedParameter*>> blocks_;  // as the plan orders them
  TokenSequences sequences_;
  std::vector<int64_t> tokens_;
  std::unique_ptr<BlockActivations> inputs_;
  int64_t done_ = 0;  // blocks of this run
  Clock::time_point started_, block_started_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_BLOCK_JOB_H_

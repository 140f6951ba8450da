// The stages of a block: linears of one input, solved matrix by matrix.
#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quantizers/block_job.h"

namespace quantd {
namespace {

InputNeeds Union(const InputNeeds& a, const InputNeeds& b) {
  return {.importance = a.importance || b.importance,
          .mean_magnitude = a.mean_magnitude || b.mean_magnitude,
          .range = a.range || b.range,
          .extremes = a.extremes || b.extremes,
          .gram = a.gram || b.gram,
          .sample_rows = std::max(a.sample_rows, b.sample_rows)};
}

}  // namespace

std::vector<std::vector<BlockLinear>> BlockJob::StagesOf(const CalibratedBlock& block) const {
  std::vector<std::vector<BlockLinear>> stages;
  for (const BlockLinear& linear : block.linears()) {
    if (Find(linear.module) == nullptr) continue;
    const bool joins =
        !stages.empty() && (!spec_.true_sequential || stages.back().front().input == linear.input);
    if (!joins) stages.emplace_back();
    stages.back().push_back(linear);
  }
  return stages;
}

absl::Status BlockJob::SolveStages(CalibratedBlock& block, int64_t index, StageValues& values,
                                   Results& results) {
  for (const std::vector<BlockLinear>& stage : StagesOf(block)) {
    Tell(index, absl::StrCat("block ", index + 1, ": inputs of ", stage.front().module));
    RETURN_IF_ERROR(SolveStage(block, stage, values, results));
  }
  // All at once: what was computed is of weights that are no longer there.
  if (!spec_.true_sequential) values.Clear();
  return absl::OkStatus();
}

absl::Status BlockJob::SolveStage(CalibratedBlock& block, const std::vector<BlockLinear>& stage,
                                  StageValues& values, Results& results) {
  struct Collected {
    InputNeeds needs;
    const BlockLinear* linear;
    std::unique_ptr<InputStatistics> statistics;
    std::shared_ptr<InputStatistics> samples;
  };
  std::map<BlockValue, Collected> collected;
  for (const BlockLinear& linear : stage) {
    Collected& at = collected[linear.input];
    at.needs = Union(at.needs, Find(linear.module)->scheme->Needs());
    at.linear = &linear;
  }
  const int64_t total = std::accumulate(tokens_.begin(), tokens_.end(), int64_t{0});
  for (auto& [value, at] : collected) {
    const int64_t cols = at.linear->cols;
    at.statistics = std::make_unique<InputStatistics>(cols, at.needs, total, data_.device.get());
    at.samples =
        std::make_shared<InputStatistics>(cols, InputNeeds{.sample_rows = kErrorTokens}, total);
  }
  values.Start(stage.back().input, stage.back().cols);
  BlockPass pass;
  for (int64_t s = 0; s < inputs_->sequences(); ++s) {
    RETURN_IF_ERROR(values.Read(s, pass));
    absl::Status added;
    block.InOneTask([&] {
      block.Continue(pass, stage.back().input);
      for (auto& [value, at] : collected) {
        if (added.ok()) added = AddInputs(*at.linear, pass[value], *at.statistics);
        if (added.ok()) added = at.samples->AddFinite(pass[value]);
        if (!added.ok()) return;
        at.statistics->EndSequence();
      }
    });
    RETURN_IF_ERROR(added);
    RETURN_IF_ERROR(values.Keep(s, pass));
  }
  values.Finish();
  for (auto& [value, at] : collected) {
    RETURN_IF_ERROR(Named(*at.linear, at.statistics->Finish()));
    RETURN_IF_ERROR(at.samples->Finish());
  }
  for (const BlockLinear& linear : stage) {
    const Collected& at = collected.at(linear.input);
    RETURN_IF_ERROR(SolveLinear(block, linear, *at.statistics, at.samples, results));
  }
  return absl::OkStatus();
}

absl::Status BlockJob::AddInputs(const BlockLinear& linear, std::span<const float> rows,
                                 InputStatistics& statistics) {
  constexpr size_t kTokens = 256;
  const size_t slice = kTokens * static_cast<size_t>(linear.cols);
  while (!rows.empty()) {
    if (job_.stopping()) return job_.Stopped();
    const size_t count = std::min(slice, rows.size());
    RETURN_IF_ERROR(Named(linear, statistics.Add(rows.first(count))));
    rows = rows.subspan(count);
  }
  return absl::OkStatus();
}

absl::Status BlockJob::SolveLinear(CalibratedBlock& block, const BlockLinear& linear,
                                   const InputStatistics& statistics,
                                   std::shared_ptr<InputStatistics> samples, Results& results) {
  const PlannedParameter& parameter = *Find(linear.module);
  if (job_.stopping()) return job_.Stopped();
  ASSIGN_OR_RETURN(const Tensor weight, job_.ReadPlain(parameter));
  SolverControl control{.stopped = [this] { return job_.stopping(); }, .warnings = {}};
  const InputStats stats = statistics.View(&control);
  absl::StatusOr<QuantizedTensor> quantized = parameter.scheme->Quantize(weight, &stats);
  if (absl::IsCancelled(quantized.status())) return job_.Stopped();
  RETURN_IF_ERROR(Named(linear, quantized.status()));
  for (const std::string& warning : control.warnings) {
    job_.Warn(absl::StrCat(linear.module, ": ", warning));
  }
  Solved& solved = results[linear.module];
  solved.tensor = *std::move(quantized);
  if (job_.stopping()) return job_.Stopped();
  WritePlainRows(solved.tensor, block.Parameter(parameter.source.name));
  RETURN_IF_ERROR(Measure(linear, weight, samples->View().samples, solved));
  solved.samples = std::move(samples);
  return absl::OkStatus();
}

}  // namespace quantd

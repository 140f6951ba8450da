#include "service/model_statistics.h"

#include "absl/time/clock.h"

namespace quantd {

void ModelStatistics::Add(const std::string& model, const InferenceRecord& record) {
  std::lock_guard lock(mutex_);
  ModelCounters& counters = counters_[model];
  if (!record.ok) {
    counters.fail.Add(record.total);
    return;
  }
  counters.last_inference_ms = static_cast<uint64_t>(absl::ToUnixMillis(absl::Now()));
  counters.inferences += static_cast<uint64_t>(record.sequences);
  ++counters.executions;
  counters.success.Add(record.total);
  counters.queue.Add(record.queue);
  counters.input.Add(record.input);
  counters.infer.Add(record.infer);
  counters.output.Add(record.output);
  auto& batch = counters.by_batch[record.sequences];
  batch[0].Add(record.input);
  batch[1].Add(record.infer);
  batch[2].Add(record.output);
}

ModelCounters ModelStatistics::Get(const std::string& model) const {
  std::lock_guard lock(mutex_);
  const auto it = counters_.find(model);
  return it == counters_.end() ? ModelCounters{} : it->second;
}

}  // namespace quantd

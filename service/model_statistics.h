// Counts and times of inference per model, as the Open Inference Protocol reports them.
#ifndef QUANTD_SERVICE_MODEL_STATISTICS_H_
#define QUANTD_SERVICE_MODEL_STATISTICS_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

#include "absl/time/time.h"

namespace quantd {

struct DurationSum {
  uint64_t count = 0;
  uint64_t nanoseconds = 0;
  void Add(absl::Duration duration) {
    ++count;
    nanoseconds += static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
  }
};

struct InferenceRecord {
  bool ok = true;
  int64_t sequences = 1;  // rows of the batch
  absl::Duration total, queue, input, infer, output;
};

struct ModelCounters {
  uint64_t last_inference_ms = 0;
  uint64_t inferences = 0;
  uint64_t executions = 0;
  DurationSum success, fail, queue, input, infer, output;
  std::map<int64_t, std::array<DurationSum, 3>> by_batch;  // sequences -> input, infer, output
};

class ModelStatistics {
 public:
  void Add(const std::string& model, const InferenceRecord& record);
  ModelCounters Get(const std::string& model) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::string, ModelCounters> counters_;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_MODEL_STATISTICS_H_

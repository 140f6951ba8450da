// The one thread of a loaded model that runs everything: it forms a batch of all sequences that can
// run (decode steps and pieces of prompts together, as in Orca and Sarathi), steps the engine, and
// feeds each sequence's sink. Logits, scores and embeddings run between the steps.
#ifndef QUANTD_MODELS_SCHEDULER_H_
#define QUANTD_MODELS_SCHEDULER_H_

#include <cstdint>
#include <memory>
#include <thread>

#include "absl/time/time.h"
#include "core/status.h"
#include "models/engine.h"
#include "models/generation.h"
#include "models/model.h"
#include "models/work.h"

namespace quantd {

class SchedulerLoop;

struct SchedulerLimits {
  int32_t max_sequences = 16;
  int32_t max_queued = 256;
  absl::Duration pause_limit = absl::Seconds(60);
};

// Thread-safe. Destroying it ends everything accepted with UNAVAILABLE; also from the scheduler
// thread itself, when a sink drops the last handle of its model.
class Scheduler {
 public:
  Scheduler(std::shared_ptr<Engine> engine, const SchedulerLimits& limits);
  ~Scheduler();

  // RESOURCE_EXHAUSTED when the queue is full or the sequence's KV cache can never fit, UNAVAILABLE
  // when draining; then the generation's sink is not called.
  absl::Status Submit(std::unique_ptr<Generation> generation);
  // Queues `work` and waits until it has ended.
  absl::Status Run(LogitsWork& work);
  absl::Status Run(EncodeWork& work);

  Model::Activity activity() const;
  void Drain(absl::Time deadline);

 private:
  const std::shared_ptr<SchedulerLoop> loop_;
  std::thread thread_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_SCHEDULER_H_

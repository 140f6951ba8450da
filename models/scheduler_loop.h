// What the scheduler thread owns and does. Private to models/scheduler.cc.
#ifndef QUANTD_MODELS_SCHEDULER_LOOP_H_
#define QUANTD_MODELS_SCHEDULER_LOOP_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "models/scheduler.h"

namespace quantd {

// How many prompt tokens a step may take beside decoding sequences: as many as this machine
// prefills in about kStallTarget, so that running streams do not stall behind a long prompt.
class PrefillBudget {
 public:
  explicit PrefillBudget(int32_t max_tokens) : max_tokens_(max_tokens) {}
  int32_t Tokens(bool others_decode) const;
  void Observe(int32_t tokens, absl::Duration elapsed);

 private:
  const int32_t max_tokens_;
  double tokens_per_second_ = 0;  // smoothed; 0: not measured yet
};

class SchedulerLoop {
 public:
  SchedulerLoop(std::shared_ptr<Engine> engine, const SchedulerLimits& limits);

  // The thread's body; returns after Stop.
  void Run();

  // From any thread.
  absl::Status Submit(std::unique_ptr<Generation> generation);
  absl::Status Enqueue(LogitsWork* work);
  absl::Status Enqueue(EncodeWork* work);
  Model::Activity activity() const;
  void Drain(absl::Time deadline);
  void Stop();

 private:
  template <class W>
  absl::Status EnqueueIn(std::deque<W*>& queue, W* work);
  bool TakeIncoming();  // false: stop
  void EndAll(const absl::Status& status);
  void Reap();
  void Admit();
  void PublishActivity();
  void CountStep();
  bool StepGenerations();
  void BuildBatch();
  void AddPieces(bool decoding, int32_t budget);
  void FinishStep(const absl::Status& status);
  void Retire(std::unique_ptr<Generation> generation, bool reuse_cache);
  bool StepWork();
  void WaitForWork();
  bool HasTimedWaits() const;

  const std::shared_ptr<Engine> engine_;
  const SchedulerLimits limits_;

  // Shared with callers, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable wake_;     // the loop has something to do
  std::condition_variable drained_;  // accepted_ became 0
  std::deque<std::unique_ptr<Generation>> incoming_;
  std::deque<LogitsWork*> incoming_logits_;
  std::deque<EncodeWork*> incoming_encode_;
  int32_t running_count_ = 0, waiting_count_ = 0, work_count_ = 0;
  BatchSizes batch_sizes_;
  bool refusing_ = false;  // new requests
  bool end_now_ = false;   // ends what runs
  bool stopping_ = false;

  // The loop's own.
  std::deque<std::unique_ptr<Generation>> waiting_;
  std::vector<std::unique_ptr<Generation>> running_;  // in order of admission
  std::deque<LogitsWork*> logits_;
  std::deque<EncodeWork*> encode_;
  Batch batch_;
  std::vector<Generation*> stepped_;   // one per sequence of batch_
  std::vector<Generation*> sampling_;  // one per wanted row of batch_
  int32_t prefill_tokens_ = 0;         // of batch_
  PrefillBudget prefill_budget_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_SCHEDULER_LOOP_H_

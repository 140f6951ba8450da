// Requests other than generation. They run on the scheduler thread between the steps of the running
// generations, in slices of bounded size, so that no request waits long for another.
#ifndef QUANTD_MODELS_WORK_H_
#define QUANTD_MODELS_WORK_H_

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "core/status.h"
#include "models/engine.h"
#include "models/model.h"

namespace quantd {

// A request whose caller waits for it. Ends exactly once, with Finish.
class Work {
 public:
  explicit Work(StopCheck stop) : stop_(std::move(stop)) {}
  virtual ~Work() = default;
  // The caller lost interest; looked at before each slice.
  bool stopped() const { return stop_ && stop_(); }
  static absl::Status Stopped();
  void Finish(absl::Status status);  // by the scheduler thread
  absl::Status Wait();               // by the caller

 private:
  const StopCheck stop_;
  std::mutex mutex_;
  std::condition_variable finished_;
  std::optional<absl::Status> status_;
};

// Visits the logits of sequences of tokens, sequence after sequence, position after position.
class LogitsWork final : public Work {
 public:
  // From position `first_position` on. `sequences` outlive the work.
  LogitsWork(std::span<const std::vector<int32_t>> sequences, int32_t first_position,
             LogitsVisitor visit, StopCheck stop)
      : Work(std::move(stop)),
        sequences_(sequences),
        first_position_(first_position),
        visit_(std::move(visit)) {}

  // The next slice, at most `max_tokens` tokens of one or several sequences; true when it was the
  // last.
  absl::StatusOr<bool> RunSlice(Engine& engine, int32_t max_tokens);
  // The last slice did nothing because others hold the memory for KV caches.
  bool waits_for_memory() const { return batch_.rows() == 0; }
  // Gives caches back that a failed slice still holds.
  void ReturnCaches(Engine& engine);

 private:
  struct Row {
    size_t sequence;
    int32_t position;
  };
  struct Active {
    size_t sequence;
    int32_t position = 0;  // tokens in the cache
    std::unique_ptr<KvCache> cache;
  };
  absl::Status FillBatch(Engine& engine, int32_t max_tokens);
  void AddPiece(Active& active, int32_t tokens);

  const std::span<const std::vector<int32_t>> sequences_;
  const int32_t first_position_;
  const LogitsVisitor visit_;
  size_t next_sequence_ = 0;
  std::deque<Active> active_;  // at most the last one is incomplete after a slice
  Batch batch_;
  std::vector<Row> rows_;  // where batch_.wanted come from
};

// Encodes token sequences with an encoder.
class EncodeWork final : public Work {
 public:
  // `sequences` and `results` (as many) outlive the work.
  EncodeWork(std::span<const std::vector<int32_t>> sequences, std::span<Model::Encoding> results,
             bool normalize, StopCheck stop)
      : Work(std::move(stop)), sequences_(sequences), results_(results), normalize_(normalize) {}

  // One pass over sequences of several requests, taken from them in turn, at most
  // engine.max_batch_tokens tokens. Finishes and removes the requests that are done or stopped.
  static void RunSlice(Engine& engine, std::deque<EncodeWork*>& queue);

 private:
  static void FinishStopped(std::deque<EncodeWork*>& queue);
  bool all_started() const { return next_ == sequences_.size(); }

  const std::span<const std::vector<int32_t>> sequences_;
  const std::span<Model::Encoding> results_;
  const bool normalize_;
  size_t next_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_WORK_H_

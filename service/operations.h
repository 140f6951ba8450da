// Long-running operations: a queue with few workers, progress that watchers follow, and exactly one
// terminal state each. Knows nothing of gRPC; handlers translate.
#ifndef QUANTD_SERVICE_OPERATIONS_H_
#define QUANTD_SERVICE_OPERATIONS_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "quantizers/pipeline.h"
#include "service/worker_pool.h"

namespace quantd {

enum class OperationState { kQueued, kRunning, kSucceeded, kFailed, kCancelled, kInterrupted };

// What an operation is about; fixed at its start.
struct OperationSubject {
  std::string verb;  // "quantize", "dequantize"
  std::string model;
  std::string output_name;
  std::string description;
};

// One consistent state of an operation.
struct OperationSnapshot {
  std::string name;  // "operations/ID"
  OperationSubject subject;
  OperationState state = OperationState::kQueued;
  absl::Time create_time, end_time;
  absl::Duration elapsed;
  std::optional<absl::Duration> eta;
  QuantizeProgress progress;
  absl::Status status;                           // why it is not kSucceeded, once done
  std::shared_ptr<const QuantizeReport> report;  // kSucceeded
  uint64_t version = 0;                          // grows with every change

  bool done() const { return state >= OperationState::kSucceeded; }
};

// Keeps on disk what is needed to list an operation as interrupted after a crash.
class OperationRecords {
 public:
  virtual ~OperationRecords() = default;
  virtual void Save(const OperationSnapshot& operation) = 0;
  virtual void Remove(const OperationSnapshot& operation) = 0;
  // Operations of earlier processes whose outputs can be resumed.
  virtual std::vector<OperationSnapshot> LoadInterrupted() = 0;
};

class OperationStore {
 public:
  using Work = std::function<absl::StatusOr<QuantizeReport>(JobControl&)>;
  struct Request {
    OperationSubject subject;
    Work work;
    std::string request_id;   // "": none
    std::string fingerprint;  // of the request, to tell a repeated id from a reused one
  };
  struct Options {
    int workers = 1;
    int max_queued = 64;
    absl::Duration retention = absl::Hours(24);
    OperationRecords* records = nullptr;  // outlives the store; may be null
    // Called once per operation when it has ended.
    std::function<void(const OperationSnapshot&)> on_done;
  };

  explicit OperationStore(Options options);
  // Stops what runs at its next tensor and waits for it.
  ~OperationStore();

  // The new operation, or the one that the same request_id started before. ABORTED when another
  // operation writes this output now, RESOURCE_EXHAUSTED when the queue is full, INVALID_ARGUMENT
  // when the request_id belongs to a different request, UNAVAILABLE while draining.
  absl::StatusOr<OperationSnapshot> Start(Request request);

  // The operation that a request_id started, if any; INVALID_ARGUMENT as in Start.
  absl::StatusOr<std::optional<OperationSnapshot>> FindRequest(
      const std::string& request_id, const std::string& fingerprint) const;

  // NOT_FOUND for an unknown name, here and below.
  absl::StatusOr<OperationSnapshot> Get(absl::string_view name) const;
  struct Page {
    std::vector<OperationSnapshot> operations;  // newest first
    std::string next_token;
  };
  // INVALID_ARGUMENT for another filter than "", "done=true", "done=false" or a made-up token.
  absl::StatusOr<Page> List(absl::string_view filter, int page_size, absl::string_view token) const;
  absl::Status Cancel(absl::string_view name);
  // FAILED_PRECONDITION while it runs.
  absl::Status Delete(absl::string_view name);

  // `changed` runs, briefly and on any thread, after each change of the operation while the handle
  // lives; the handle's end waits for a running callback, so a callback must not end it. It may
  // call Get.
  using WatchHandle = std::shared_ptr<void>;
  absl::StatusOr<WatchHandle> Watch(absl::string_view name, std::function<void()> changed);

  // Refuses new operations, interrupts queued ones, and lets running ones stop after the tensor in
  // hand, resumable.
  void Drain();
  // True when nothing runs any more.
  bool WaitIdle(absl::Duration timeout) const;

  struct Counts {
    int queued = 0;
    int running = 0;
  };
  Counts counts() const;

 private:
  struct Operation;
  struct Watcher;
  using OperationPtr = std::shared_ptr<Operation>;

  void Execute(const OperationPtr& operation);
  void OnProgress(Operation& operation, const QuantizeProgress& progress);
  void End(const OperationPtr& operation, OperationState state, absl::Status status,
           std::shared_ptr<const QuantizeReport> report);
  absl::StatusOr<OperationPtr> FindRequestLocked(const std::string& request_id,
                                                 const std::string& fingerprint) const;
  absl::StatusOr<OperationPtr> Find(absl::string_view name) const;
  void Prune();
  OperationSnapshot SnapshotOf(const Operation& operation) const;
  static void Notify(Operation& operation);

  const Options options_;
  mutable std::mutex mutex_;
  mutable std::condition_variable idle_;
  std::map<uint64_t, OperationPtr> by_number_;  // in order of creation
  std::map<std::string, OperationPtr, std::less<>> by_name_;
  std::map<std::string, OperationPtr> by_request_id_;
  uint64_t next_number_ = 1;
  bool draining_ = false;
  std::unique_ptr<WorkerPool> pool_;  // last: its threads use the rest
};

absl::string_view StateName(OperationState state);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPERATIONS_H_

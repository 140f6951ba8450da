#include "service/operations.h"

#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/operation_entry.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxFinished = 1000;

std::string NewName() {
  std::random_device random;
  return absl::StrCat("operations/", absl::Hex(random(), absl::kZeroPad8),
                      absl::Hex(random(), absl::kZeroPad8));
}

}  // namespace

absl::string_view StateName(OperationState state) {
  static constexpr absl::string_view kNames[] = {"queued", "running",   "succeeded",
                                                 "failed", "cancelled", "interrupted"};
  return kNames[static_cast<int>(state)];
}

OperationStore::OperationStore(Options options) : options_(std::move(options)) {
  if (options_.records != nullptr) {
    for (OperationSnapshot& snapshot : options_.records->LoadInterrupted()) {
      auto operation = std::make_shared<Operation>();
      operation->number = next_number_++;
      operation->snapshot = std::move(snapshot);
      operation->snapshot.state = OperationState::kInterrupted;
      if (operation->snapshot.name.empty() || by_name_.contains(operation->snapshot.name)) {
        operation->snapshot.name = NewName();
      }
      by_number_[operation->number] = operation;
      by_name_[operation->snapshot.name] = operation;
    }
  }
  pool_ = std::make_unique<WorkerPool>("quantize", options_.workers, options_.max_queued);
}

OperationStore::~OperationStore() {
  Drain();
  pool_.reset();
}

absl::StatusOr<OperationSnapshot> OperationStore::Start(Request request) {
  auto operation = std::make_shared<Operation>();
  OperationSnapshot snapshot;
  {
    std::lock_guard lock(mutex_);
    if (draining_) {
      return absl::UnavailableError("the server is shutting down");
    }
    Prune();
    ASSIGN_OR_RETURN(const OperationPtr known,
                     FindRequestLocked(request.request_id, request.fingerprint));
    if (known != nullptr) {
      return SnapshotOf(*known);
    }
    OperationPtr superseded;
    for (const auto& [number, other] : by_number_) {
      if (other->snapshot.subject.output_name != request.subject.output_name) {
        continue;
      }
      if (!other->snapshot.done()) {
        return absl::AbortedError(absl::StrCat("output \"", request.subject.output_name,
                                               "\" is being written by ", other->snapshot.name));
      }
      if (other->snapshot.state == OperationState::kInterrupted) {
        superseded = other;
      }
    }
    operation->snapshot.name = NewName();
    operation->snapshot.subject = std::move(request.subject);
    operation->snapshot.create_time = absl::Now();
    operation->request_id = request.request_id;
    operation->fingerprint = std::move(request.fingerprint);
    operation->work = std::move(request.work);
    RETURN_IF_ERROR(pool_->Submit([this, operation] { Execute(operation); }));
    if (superseded != nullptr) {
      by_number_.erase(superseded->number);
      by_name_.erase(superseded->snapshot.name);
      by_request_id_.erase(superseded->request_id);
    }
    operation->number = next_number_++;
    by_number_[operation->number] = operation;
    by_name_[operation->snapshot.name] = operation;
    if (!operation->request_id.empty()) {
      by_request_id_[operation->request_id] = operation;
    }
    snapshot = SnapshotOf(*operation);
  }
  return snapshot;
}

void OperationStore::Execute(const OperationPtr& operation) {
  Work work;
  OperationSnapshot snapshot;
  {
    std::lock_guard lock(mutex_);
    // Whoever set one of the flags while it waited makes it terminal.
    if (operation->snapshot.done() || operation->control.cancel || operation->control.drain) {
      return;
    }
    operation->snapshot.state = OperationState::kRunning;
    operation->started = Clock::now();
    ++operation->snapshot.version;
    work = std::move(operation->work);
    operation->work = nullptr;
    snapshot = SnapshotOf(*operation);
  }
  if (options_.records != nullptr) {
    options_.records->Save(snapshot);
  }
  Notify(*operation);
  operation->control.on_progress = [this, &operation](const QuantizeProgress& progress) {
    OnProgress(*operation, progress);
  };
  absl::StatusOr<QuantizeReport> report = work(operation->control);
  operation->control.on_progress = nullptr;
  if (report.ok()) {
    End(operation, OperationState::kSucceeded, absl::OkStatus(),
        std::make_shared<const QuantizeReport>(*std::move(report)));
  } else if (absl::IsCancelled(report.status()) && operation->control.cancel) {
    End(operation, OperationState::kCancelled, report.status(), nullptr);
  } else if (absl::IsAborted(report.status()) && operation->control.drain) {
    End(operation, OperationState::kInterrupted, report.status(), nullptr);
  } else {
    End(operation, OperationState::kFailed, report.status(), nullptr);
  }
}

void OperationStore::OnProgress(Operation& operation, const QuantizeProgress& progress) {
  {
    std::lock_guard lock(mutex_);
    OperationSnapshot& snapshot = operation.snapshot;
    snapshot.progress = progress;
    ++snapshot.version;
    const double seconds = std::chrono::duration<double>(Clock::now() - operation.started).count();
    if (progress.blocks > 0) {
      snapshot.eta.reset();
      if (progress.eta_seconds >= 0) snapshot.eta = absl::Seconds(progress.eta_seconds);
    } else if (progress.bytes_done > 0 && progress.bytes_total >= progress.bytes_done) {
      const double left = static_cast<double>(progress.bytes_total - progress.bytes_done) /
                          static_cast<double>(progress.bytes_done);
      snapshot.eta = absl::Seconds(seconds * left);
    }
  }
  Notify(operation);
}

void OperationStore::End(const OperationPtr& operation, OperationState state, absl::Status status,
                         std::shared_ptr<const QuantizeReport> report) {
  OperationSnapshot snapshot;
  {
    std::lock_guard lock(mutex_);
    snapshot = SnapshotOf(*operation);
    if (snapshot.done()) {
      return;
    }
    snapshot.state = state;
    snapshot.status = std::move(status);
    snapshot.report = std::move(report);
    snapshot.end_time = absl::Now();
    snapshot.eta.reset();
    ++snapshot.version;
  }
  // The record goes before the state shows: who sees the end sees no leftovers.
  if (options_.records != nullptr && state != OperationState::kInterrupted) {
    options_.records->Remove(snapshot);
  }
  {
    std::lock_guard lock(mutex_);
    if (operation->snapshot.done()) {
      return;
    }
    operation->snapshot = snapshot;
  }
  idle_.notify_all();
  if (options_.on_done) {
    options_.on_done(snapshot);
  }
  Notify(*operation);
}

absl::Status OperationStore::Cancel(absl::string_view name) {
  OperationPtr operation;
  bool waiting = false;
  {
    std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(operation, Find(name));
    operation->control.cancel = true;
    waiting = operation->snapshot.state == OperationState::kQueued;
  }
  if (waiting) {
    End(operation, OperationState::kCancelled, absl::CancelledError("the operation was cancelled"),
        nullptr);
  }
  return absl::OkStatus();
}

absl::Status OperationStore::Delete(absl::string_view name) {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(const OperationPtr operation, Find(name));
  if (!operation->snapshot.done()) {
    return absl::FailedPreconditionError(
        absl::StrCat(operation->snapshot.name, " has not ended; cancel it first"));
  }
  by_number_.erase(operation->number);
  by_request_id_.erase(operation->request_id);
  by_name_.erase(operation->snapshot.name);
  return absl::OkStatus();
}

void OperationStore::Drain() {
  std::vector<OperationPtr> waiting;
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
    for (const auto& [number, operation] : by_number_) {
      operation->control.drain = true;
      if (operation->snapshot.state == OperationState::kQueued) {
        waiting.push_back(operation);
      }
    }
  }
  for (const OperationPtr& operation : waiting) {
    End(operation, OperationState::kInterrupted,
        absl::AbortedError("the server shut down before the operation started; send it again"),
        nullptr);
  }
}

void OperationStore::Prune() {
  const absl::Time oldest = absl::Now() - options_.retention;
  size_t finished = 0;
  for (const auto& [number, operation] : by_number_) {
    finished += operation->snapshot.done();
  }
  for (auto it = by_number_.begin(); it != by_number_.end();) {
    const OperationPtr operation = it->second;
    const OperationSnapshot& snapshot = operation->snapshot;
    // Interrupted ones stay as long as they can be resumed.
    const bool forget = snapshot.done() && snapshot.state != OperationState::kInterrupted &&
                        (finished > kMaxFinished || snapshot.end_time < oldest);
    if (!forget) {
      ++it;
      continue;
    }
    --finished;
    by_name_.erase(snapshot.name);
    by_request_id_.erase(operation->request_id);
    it = by_number_.erase(it);
  }
}

}  // namespace quantd

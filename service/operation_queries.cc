// Finding, listing and watching operations: what changes none of them.
#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "service/operation_entry.h"
#include "service/operations.h"
#include "service/status.h"

namespace quantd {
namespace {

using Clock = std::chrono::steady_clock;

absl::Status UnknownOperation(absl::string_view name) {
  return absl::NotFoundError(absl::StrCat("operation \"", Shown(name), "\" not found"));
}

}  // namespace

// Null when no operation has this id.
absl::StatusOr<OperationStore::OperationPtr> OperationStore::FindRequestLocked(
    const std::string& request_id, const std::string& fingerprint) const {
  const auto it = by_request_id_.find(request_id);
  if (request_id.empty() || it == by_request_id_.end()) {
    return nullptr;
  }
  if (it->second->fingerprint != fingerprint) {
    return FieldError("request_id", "was used before for a different request");
  }
  return it->second;
}

absl::StatusOr<std::optional<OperationSnapshot>> OperationStore::FindRequest(
    const std::string& request_id, const std::string& fingerprint) const {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(const OperationPtr known, FindRequestLocked(request_id, fingerprint));
  if (known == nullptr) {
    return std::nullopt;
  }
  return SnapshotOf(*known);
}

absl::StatusOr<OperationStore::OperationPtr> OperationStore::Find(absl::string_view name) const {
  const auto it = by_name_.find(std::string_view(name.data(), name.size()));
  if (it == by_name_.end()) {
    return UnknownOperation(name);
  }
  return it->second;
}

absl::StatusOr<OperationSnapshot> OperationStore::Get(absl::string_view name) const {
  std::lock_guard lock(mutex_);
  ASSIGN_OR_RETURN(const OperationPtr operation, Find(name));
  return SnapshotOf(*operation);
}

absl::StatusOr<OperationStore::Page> OperationStore::List(absl::string_view filter, int page_size,
                                                          absl::string_view token) const {
  if (!filter.empty() && filter != "done=true" && filter != "done=false") {
    return FieldError("filter", "must be empty, done=true or done=false");
  }
  if (page_size < 0) {
    return FieldError("page_size", "must not be negative");
  }
  const size_t limit = page_size == 0 ? 50 : std::min(page_size, 1000);
  uint64_t below = UINT64_MAX;
  if (!token.empty() && !absl::SimpleAtoi(token, &below)) {
    return FieldError("page_token", "is not one that a list returned");
  }
  Page page;
  std::lock_guard lock(mutex_);
  for (auto it = by_number_.rbegin(); it != by_number_.rend(); ++it) {
    const Operation& operation = *it->second;
    if (it->first >= below ||
        (!filter.empty() && operation.snapshot.done() != (filter == "done=true"))) {
      continue;
    }
    if (page.operations.size() == limit) {
      page.next_token = absl::StrCat(below);
      break;
    }
    page.operations.push_back(SnapshotOf(operation));
    below = it->first;
  }
  return page;
}

struct OperationStore::Watcher {
  Watcher(OperationPtr operation, std::function<void()> changed)
      : operation(std::move(operation)), changed(std::move(changed)) {
    std::lock_guard lock(this->operation->watch_mutex);
    this->operation->watchers.insert(this);
  }
  ~Watcher() {
    std::lock_guard lock(operation->watch_mutex);
    operation->watchers.erase(this);
  }
  const OperationPtr operation;
  const std::function<void()> changed;
};

absl::StatusOr<OperationStore::WatchHandle> OperationStore::Watch(absl::string_view name,
                                                                  std::function<void()> changed) {
  OperationPtr operation;
  {
    std::lock_guard lock(mutex_);
    ASSIGN_OR_RETURN(operation, Find(name));
  }
  return WatchHandle(std::make_shared<Watcher>(std::move(operation), std::move(changed)));
}

void OperationStore::Notify(Operation& operation) {
  std::lock_guard lock(operation.watch_mutex);
  for (const Watcher* watcher : operation.watchers) {
    watcher->changed();
  }
}

bool OperationStore::WaitIdle(absl::Duration timeout) const {
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] {
    for (const auto& [number, operation] : by_number_) {
      if (!operation->snapshot.done()) {
        return false;
      }
    }
    return true;
  });
}

OperationStore::Counts OperationStore::counts() const {
  Counts counts;
  std::lock_guard lock(mutex_);
  for (const auto& [number, operation] : by_number_) {
    counts.queued += operation->snapshot.state == OperationState::kQueued;
    counts.running += operation->snapshot.state == OperationState::kRunning;
  }
  return counts;
}

OperationSnapshot OperationStore::SnapshotOf(const Operation& operation) const {
  OperationSnapshot snapshot = operation.snapshot;
  if (operation.started != Clock::time_point{}) {
    snapshot.elapsed =
        snapshot.done() ? snapshot.elapsed : absl::FromChrono(Clock::now() - operation.started);
  }
  return snapshot;
}

}  // namespace quantd

#include "service/model_repository.h"

#include <malloc.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/model_repository_entry.h"
#include "service/status.h"

namespace quantd {
absl::string_view StateName(ModelState state) {
  static constexpr absl::string_view kNames[] = {"UNLOADED", "LOADING", "READY", "UNLOADING",
                                                 "FAILED"};
  return kNames[static_cast<int>(state)];
}

bool LoadSettings::SameAs(const LoadSettings& other) const {
  return device == other.device && compute == other.compute &&
         quantize_activations == other.quantize_activations &&
         context_length == other.context_length && max_sequences == other.max_sequences &&
         recipe_key == other.recipe_key;
}

ModelRepository::ModelRepository(std::shared_ptr<const ModelRoot> root, uint64_t memory_limit,
                                 int max_queued)
    : root_(std::move(root)),
      memory_limit_(memory_limit),
      pool_(std::make_unique<WorkerPool>("load", 2, max_queued)),
      unload_pool_(std::make_unique<WorkerPool>("unload", 1, INT_MAX / 2)) {}

ModelRepository::~ModelRepository() {
  Drain(absl::InfinitePast());
  pool_.reset();
  {
    // A scheduler may be about to drop the lease of a generation that it just ended.
    std::unique_lock lock(mutex_);
    released_.wait_for(lock, std::chrono::seconds(10), [this] {
      return std::all_of(entries_.begin(), entries_.end(),
                         [](const auto& item) { return item.second->active == 0; });
    });
  }
  unload_pool_.reset();
  entries_.clear();
}

void ModelRepository::OnChange(std::function<void(const std::string&, bool)> callback) {
  std::lock_guard lock(mutex_);
  on_change_ = std::move(callback);
}

void ModelRepository::Unload(const std::string& name, UnloadDone done) {
  const absl::Status found = root_->Find(name).status();
  std::unique_lock lock(mutex_);
  const auto it = entries_.find(name);
  const ModelState state = it == entries_.end() ? ModelState::kUnloaded : it->second->state;
  if (state != ModelState::kReady && state != ModelState::kUnloading) {
    lock.unlock();
    done(!found.ok() ? found
                     : absl::FailedPreconditionError(absl::StrCat(
                           "model \"", name, "\" is not loaded",
                           state == ModelState::kLoading ? " yet: cancel the load instead" : "")));
    return;
  }
  const EntryPtr entry = it->second;
  entry->unload_waiters.push_back(std::move(done));
  if (state == ModelState::kUnloading) {
    return;
  }
  entry->state = ModelState::kUnloading;
  const auto on_change = on_change_;
  const bool idle = entry->active == 0;
  lock.unlock();
  if (on_change) {
    on_change(name, false);
  }
  if (idle) {
    FinishUnload(entry);
  }
}

// The model's destructor joins its scheduler, so it runs on a thread of the pool: never on the
// scheduler itself, which may hold the last lease.
void ModelRepository::FinishUnload(const EntryPtr& entry) {
  const auto work = [this, entry] {
    std::shared_ptr<Model> model;
    uint64_t released;
    {
      std::lock_guard lock(mutex_);
      model = std::move(entry->model);
      entry->model = nullptr;
    }
    released = model != nullptr ? TotalBytes(model->memory()) : 0;
    model.reset();
    malloc_trim(0);
    std::vector<UnloadDone> waiters;
    std::vector<Waiter> load_waiters;
    absl::Status reload;
    {
      std::lock_guard lock(mutex_);
      waiters.swap(entry->unload_waiters);
      entry->reserved_bytes = 0;
      entry->state = ModelState::kUnloaded;
      if (std::exchange(entry->reload, false)) {
        reload = SubmitLoad(entry);
        if (reload.ok()) {
          entry->state = ModelState::kLoading;
        } else {
          load_waiters.swap(entry->load_waiters);
        }
      }
    }
    for (const UnloadDone& done : waiters) {
      done(released);
    }
    for (const Waiter& waiter : load_waiters) {
      waiter.done(reload);
    }
  };
  unload_pool_->Submit(work).IgnoreError();  // its queue is larger than any number of models
}

absl::StatusOr<std::shared_ptr<const ModelLease>> ModelRepository::Acquire(
    const std::string& name) {
  RETURN_IF_ERROR(CheckModelName(name));
  {
    std::lock_guard lock(mutex_);
    const auto it = entries_.find(name);
    if (it != entries_.end() && it->second->state == ModelState::kReady) {
      const EntryPtr entry = it->second;
      ++entry->active;
      return std::make_shared<const ModelLease>(entry->model, [this, entry] { Release(entry); });
    }
  }
  RETURN_IF_ERROR(root_->Find(name).status());
  const ModelEntry entry = Get(name);
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "model \"", name, "\" is not ready (", StateName(entry.state),
          entry.reason.empty() ? "" : absl::StrCat(": ", entry.reason), "); load it first")),
      "MODEL_NOT_LOADED", {{"model", name}, {"state", std::string(StateName(entry.state))}});
}

void ModelRepository::Release(const EntryPtr& entry) {
  bool last;
  {
    std::lock_guard lock(mutex_);
    last = --entry->active == 0 && entry->state == ModelState::kUnloading;
  }
  released_.notify_all();
  if (last) {
    FinishUnload(entry);
  }
}

ModelEntry ModelRepository::Get(const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto it = entries_.find(name);
  if (it == entries_.end()) {
    return {};
  }
  const Entry& entry = *it->second;
  return {entry.state, entry.reason, entry.model, entry.active, entry.was_loaded};
}

std::vector<std::string> ModelRepository::LoadedNames() const {
  std::vector<std::string> names;
  std::lock_guard lock(mutex_);
  for (const auto& [name, entry] : entries_) {
    if (entry->state == ModelState::kReady) {
      names.push_back(name);
    }
  }
  return names;
}

void ModelRepository::Drain(absl::Time deadline) {
  std::vector<std::shared_ptr<Model>> models;
  {
    std::lock_guard lock(mutex_);
    draining_ = true;
    for (const auto& [name, entry] : entries_) {
      if (entry->model != nullptr) {
        models.push_back(entry->model);
      }
    }
  }
  for (const std::shared_ptr<Model>& model : models) {
    model->Drain(deadline);
  }
}

}  // namespace quantd

#include "service/model_repository.h"

#include <malloc.h>

#include <algorithm>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quantizers/pipeline.h"
#include "service/model_fingerprint.h"
#include "service/status.h"

namespace quantd {
namespace {

uint64_t Total(const ModelMemory& memory) {
  return memory.weight_bytes + memory.kv_bytes + memory.workspace_bytes;
}

}  // namespace

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

struct ModelRepository::Entry {
  std::string name;
  ModelState state = ModelState::kUnloaded;
  std::string reason;
  LoadSettings settings;
  std::string fingerprint;
  std::shared_ptr<Model> model;
  uint64_t reserved_bytes = 0;  // admitted for loading, or held
  int active = 0;
  std::vector<Waiter> load_waiters;
  std::vector<UnloadDone> unload_waiters;
  bool was_loaded = false;
  bool reload = false;  // load again with `settings` once unloaded
};

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

absl::Status ModelRepository::SubmitLoad(const EntryPtr& entry) {
  return pool_->Submit([this, entry] { RunLoad(entry); });
}

void ModelRepository::Load(const std::string& name, const LoadSettings& settings,
                           std::shared_ptr<const std::atomic<bool>> cancelled, LoadDone done) {
  const auto found = root_->Find(name);
  std::string fingerprint = found.ok() ? FingerprintOf(*root_, name) : "";
  std::optional<absl::Status> answer;
  bool replace = false;
  if (!found.ok()) {
    answer = found.status();
  } else {
    std::lock_guard lock(mutex_);
    EntryPtr& entry = entries_[name];
    if (entry == nullptr) {
      entry = std::make_shared<Entry>();
      entry->name = name;
    }
    const bool was_ready = entry->state == ModelState::kReady;
    answer = JoinOrStartLoad(entry, settings, std::move(fingerprint));
    if (!answer) {
      entry->load_waiters.push_back({std::move(cancelled), std::move(done)});
      replace = was_ready;
    }
  }
  if (answer) {
    done(*answer);
  } else if (replace) {
    Unload(name, [](const absl::StatusOr<uint64_t>&) {});
  }
}

// The answer when there is one already; nullopt when the caller is to wait for a load.
std::optional<absl::Status> ModelRepository::JoinOrStartLoad(const EntryPtr& entry,
                                                             const LoadSettings& settings,
                                                             std::string fingerprint) {
  if (draining_) {
    return absl::UnavailableError("the server is shutting down");
  }
  const bool same = entry->settings.SameAs(settings);
  const auto other_settings = [&entry] {
    return absl::AbortedError(
        absl::StrCat("model \"", entry->name, "\" is being loaded with other settings"));
  };
  switch (entry->state) {
    case ModelState::kReady:
      if (!same) {
        return absl::FailedPreconditionError(absl::StrCat(
            "model \"", entry->name, "\" is loaded with other settings; unload it first"));
      }
      if (entry->fingerprint == fingerprint) {
        return absl::OkStatus();
      }
      // Its files changed: what is loaded goes, then the new files come.
      break;
    case ModelState::kLoading:
      if (!same) {
        return other_settings();
      }
      return std::nullopt;
    case ModelState::kUnloading:
      if (entry->reload && !same) {
        return other_settings();
      }
      break;
    case ModelState::kUnloaded:
    case ModelState::kFailed:
      RETURN_IF_ERROR(SubmitLoad(entry));
      entry->settings = settings;
      entry->fingerprint = std::move(fingerprint);
      entry->state = ModelState::kLoading;
      entry->reason.clear();
      return std::nullopt;
  }
  entry->settings = settings;
  entry->fingerprint = std::move(fingerprint);
  entry->reload = true;
  return std::nullopt;
}

// True when nobody waits for the load any more. Waiters that left are answered at once.
bool ModelRepository::LoadCancelled(Entry& entry) {
  std::vector<LoadDone> left;
  bool cancelled;
  {
    std::lock_guard lock(mutex_);
    auto& waiters = entry.load_waiters;
    for (auto it = waiters.begin(); it != waiters.end();) {
      if (it->cancelled != nullptr && *it->cancelled) {
        left.push_back(std::move(it->done));
        it = waiters.erase(it);
      } else {
        ++it;
      }
    }
    cancelled = draining_ || waiters.empty();
  }
  for (const LoadDone& done : left) {
    done(absl::CancelledError("the load was cancelled"));
  }
  return cancelled;
}

absl::Status ModelRepository::Admit(Entry& entry, const ModelMemory& estimate) {
  const uint64_t needed = Total(estimate);
  std::lock_guard lock(mutex_);
  uint64_t held = 0;
  for (const auto& [name, other] : entries_) {
    held += other.get() == &entry ? 0 : other->reserved_bytes;
  }
  if (memory_limit_ > 0 && (needed > memory_limit_ || held > memory_limit_ - needed)) {
    return WithReason(
        absl::ResourceExhaustedError(absl::StrCat(
            "model \"", entry.name, "\" needs ", needed, " bytes of memory; loaded models hold ",
            held, " of the limit of ", memory_limit_,
            "; unload another model, quantize to fewer bits or raise --memory-limit")),
        "MEMORY_LIMIT",
        {{"model", entry.name},
         {"needed_bytes", absl::StrCat(needed)},
         {"held_bytes", absl::StrCat(held)},
         {"limit_bytes", absl::StrCat(memory_limit_)}});
  }
  entry.reserved_bytes = needed;
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Model>> ModelRepository::ReadModel(const EntryPtr& entry) {
  LoadSettings settings;
  {
    std::lock_guard lock(mutex_);
    settings = entry->settings;
  }
  if (LoadCancelled(*entry)) {
    return absl::CancelledError("the load was cancelled");
  }
  ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> source, OpenModelSource(root_, entry->name));
  if (settings.recipe != nullptr) {
    ASSIGN_OR_RETURN(settings.recipe, ReadImportance(*root_, settings.recipe));
    source = QuantizeOnTheFly(std::move(source), settings.recipe);
  }
  LoadOptions options;
  options.device = settings.device;
  options.compute = settings.compute;
  options.quantize_activations = settings.quantize_activations;
  options.context_length = settings.context_length;
  options.max_sequences = settings.max_sequences;
  ASSIGN_OR_RETURN(const ModelMemory estimate, Model::EstimateMemory(*source, options));
  RETURN_IF_ERROR(Admit(*entry, estimate));
  {
    std::lock_guard lock(mutex_);
    uint64_t held = 0;
    for (const auto& [name, other] : entries_) {
      held += other == entry ? 0 : other->reserved_bytes;
    }
    options.memory_limit_bytes = memory_limit_ > held ? memory_limit_ - held : 0;
  }
  options.cancelled = [this, raw = entry.get()] { return LoadCancelled(*raw); };
  return Model::Load(std::move(source), options);
}

void ModelRepository::RunLoad(const EntryPtr& entry) { FinishLoad(entry, ReadModel(entry)); }

void ModelRepository::FinishLoad(const EntryPtr& entry,
                                 absl::StatusOr<std::shared_ptr<Model>> model) {
  std::vector<Waiter> waiters;
  std::function<void(const std::string&, bool)> on_change;
  bool ready = model.ok();
  {
    std::lock_guard lock(mutex_);
    waiters.swap(entry->load_waiters);
    on_change = on_change_;
    const bool given_up = absl::IsCancelled(model.status());
    if (draining_ && (ready || given_up)) {
      model = absl::UnavailableError("the server is shutting down");
      ready = false;
    }
    if (ready) {
      entry->model = *std::move(model);
      entry->state = ModelState::kReady;
      entry->was_loaded = true;
      entry->reserved_bytes = Total(entry->model->memory());
    } else {
      entry->state = given_up ? ModelState::kUnloaded : ModelState::kFailed;
      entry->reason = given_up ? "" : std::string(model.status().message());
      entry->reserved_bytes = 0;
    }
  }
  if (ready && on_change) {
    on_change(entry->name, true);
  }
  if (!ready) {
    malloc_trim(0);
  }
  for (const Waiter& waiter : waiters) {
    waiter.done(ready ? absl::OkStatus() : model.status());
  }
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
    released = model != nullptr ? Total(model->memory()) : 0;
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

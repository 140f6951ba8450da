// The repository's loads: who joins which, admission by memory, reading, the end.
#include <malloc.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "quantizers/pipeline.h"
#include "service/model_fingerprint.h"
#include "service/model_repository.h"
#include "service/model_repository_entry.h"
#include "service/status.h"

namespace quantd {

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
  const uint64_t needed = TotalBytes(estimate);
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
      entry->reserved_bytes = TotalBytes(entry->model->memory());
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

}  // namespace quantd

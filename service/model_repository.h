// Which models of the root are in memory. Concurrent loads of a model join; an unload waits for the
// requests that use the model, then reports the memory given back; failures are remembered.
#ifndef QUANTD_SERVICE_MODEL_REPOSITORY_H_
#define QUANTD_SERVICE_MODEL_REPOSITORY_H_

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "formats/model_root.h"
#include "models/model.h"
#include "service/worker_pool.h"

namespace quantd {

class Recipe;  // quantizers/method.h

enum class ModelState { kUnloaded, kLoading, kReady, kUnloading, kFailed };

// How a model shall be loaded. Two loads with equal settings are the same load.
struct LoadSettings {
  std::string device;
  Compute compute = Compute::kFast;
  bool quantize_activations = false;
  int32_t context_length = 0;
  int32_t max_sequences = 16;
  // On-the-fly quantization; `recipe_key` spells the recipe for comparison, "" for none.
  std::shared_ptr<const Recipe> recipe;
  std::string recipe_key;

  bool SameAs(const LoadSettings& other) const;
};

struct ModelEntry {
  ModelState state = ModelState::kUnloaded;
  std::string reason;            // of kFailed
  std::shared_ptr<Model> model;  // kReady only; do not keep it, see Lease
  int active = 0;                // leases
  bool was_loaded = false;       // some time ago, or now
};

// Use of a loaded model: while a lease lives, an unload waits.
class ModelLease {
 public:
  ModelLease(std::shared_ptr<Model> model, std::function<void()> release)
      : model_(std::move(model)), release_(std::move(release)) {}
  ~ModelLease() {
    model_.reset();
    release_();
  }
  ModelLease(const ModelLease&) = delete;
  ModelLease& operator=(const ModelLease&) = delete;
  Model& model() const { return *model_; }

 private:
  std::shared_ptr<Model> model_;
  std::function<void()> release_;
};

class ModelRepository {
 public:
  ModelRepository(std::shared_ptr<const ModelRoot> root, uint64_t memory_limit, int max_queued);
  // Ends generations at once and unloads everything. No lease may live.
  ~ModelRepository();

  // Runs `done` once, on another thread: when the model is READY, or with the load's error, or
  // CANCELLED when `cancelled` turned true (the load itself goes on while others wait for it).
  // Errors: NOT_FOUND, INVALID_ARGUMENT (the checkpoint), RESOURCE_EXHAUSTED with figures (memory),
  // FAILED_PRECONDITION (loaded with other settings), ABORTED (being loaded with other settings),
  // UNAVAILABLE (draining).
  using LoadDone = std::function<void(absl::Status)>;
  void Load(const std::string& name, const LoadSettings& settings,
            std::shared_ptr<const std::atomic<bool>> cancelled, LoadDone done);

  // Runs `done` once, when the memory is given back, with the bytes. FAILED_PRECONDITION when the
  // model is not loaded. New leases are refused from now on.
  using UnloadDone = std::function<void(absl::StatusOr<uint64_t>)>;
  void Unload(const std::string& name, UnloadDone done);

  // FAILED_PRECONDITION when the model is in the root but not ready; NOT_FOUND when it is not
  // there.
  absl::StatusOr<std::shared_ptr<const ModelLease>> Acquire(const std::string& name);

  ModelEntry Get(const std::string& name) const;
  std::vector<std::string> LoadedNames() const;
  uint64_t memory_limit() const { return memory_limit_; }
  // Changes when any model becomes ready or stops being so.
  void OnChange(std::function<void(const std::string& name, bool ready)> callback);

  // Cancels loads, refuses new ones, and lets the models end their generations until `deadline`.
  void Drain(absl::Time deadline);

 private:
  struct Entry;
  using EntryPtr = std::shared_ptr<Entry>;
  struct Waiter {
    std::shared_ptr<const std::atomic<bool>> cancelled;
    LoadDone done;
  };

  void RunLoad(const EntryPtr& entry);
  absl::StatusOr<std::shared_ptr<Model>> ReadModel(const EntryPtr& entry);
  absl::Status Admit(Entry& entry, const ModelMemory& estimate);
  void FinishLoad(const EntryPtr& entry, absl::StatusOr<std::shared_ptr<Model>> model);
  bool LoadCancelled(Entry& entry);
  void Release(const EntryPtr& entry);
  void FinishUnload(const EntryPtr& entry);
  absl::Status SubmitLoad(const EntryPtr& entry);
  std::optional<absl::Status> JoinOrStartLoad(const EntryPtr& entry, const LoadSettings& settings,
                                              std::string fingerprint);

  const std::shared_ptr<const ModelRoot> root_;
  const uint64_t memory_limit_;
  mutable std::mutex mutex_;
  std::map<std::string, EntryPtr> entries_;
  std::function<void(const std::string&, bool)> on_change_;
  bool draining_ = false;
  std::condition_variable released_;
  std::unique_ptr<WorkerPool> pool_;
  std::unique_ptr<WorkerPool> unload_pool_;
};

absl::string_view StateName(ModelState state);

}  // namespace quantd

#endif  // QUANTD_SERVICE_MODEL_REPOSITORY_H_

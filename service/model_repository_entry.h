// What the repository holds of one model. Private to model_repository.cc and model_loading.cc.
#ifndef QUANTD_SERVICE_MODEL_REPOSITORY_ENTRY_H_
#define QUANTD_SERVICE_MODEL_REPOSITORY_ENTRY_H_

#include <memory>
#include <string>
#include <vector>

#include "service/model_repository.h"

namespace quantd {

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

inline uint64_t TotalBytes(const ModelMemory& memory) {
  return memory.weight_bytes + memory.kv_bytes + memory.workspace_bytes;
}

}  // namespace quantd

#endif  // QUANTD_SERVICE_MODEL_REPOSITORY_ENTRY_H_

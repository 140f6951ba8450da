// What all handlers share; owned by the server.
#ifndef QUANTD_SERVICE_CONTEXT_H_
#define QUANTD_SERVICE_CONTEXT_H_

#include <atomic>
#include <chrono>
#include <memory>

#include "formats/model_root.h"
#include "service/auth.h"
#include "service/config.h"
#include "service/metrics.h"
#include "service/model_repository.h"
#include "service/model_statistics.h"
#include "service/operations.h"
#include "service/stream_registry.h"
#include "service/timer.h"
#include "service/worker_pool.h"

namespace quantd {

struct ServiceContext {
  ServerConfig config;
  uint64_t memory_limit = 0;
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  std::shared_ptr<ModelRoot> root;
  std::unique_ptr<TokenTable> tokens;  // null: everybody may do everything
  std::atomic<bool> draining{false};
  std::atomic<int> active_calls{0};

  Metrics metrics;
  ModelStatistics statistics;
  Timer timer;
  StreamRegistry streams;
  std::unique_ptr<OperationRecords> records;
  std::unique_ptr<OperationStore> operations;
  std::unique_ptr<ModelRepository> repository;
  // Pools go first: their tasks use everything above.
  std::unique_ptr<WorkerPool> control;     // headers, lists
  std::unique_ptr<WorkerPool> inference;   // waits for models' schedulers
  std::unique_ptr<WorkerPool> tensors;     // single matrices
  std::unique_ptr<WorkerPool> evaluation;  // long measurements
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_CONTEXT_H_

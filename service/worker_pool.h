// A few threads with a bounded queue, for work that waits (files, a model's scheduler). Arithmetic
// itself runs on the compute team of core/parallel.h, so a pool's size never oversubscribes CPUs.
#ifndef QUANTD_SERVICE_WORKER_POOL_H_
#define QUANTD_SERVICE_WORKER_POOL_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "core/status.h"

namespace quantd {

class WorkerPool {
 public:
  // Threads start when they are needed. `max_queued` tasks may wait.
  WorkerPool(std::string name, int max_threads, int max_queued);
  // Runs what is queued, then joins.
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  // RESOURCE_EXHAUSTED with a retry hint when the queue is full or the system gives no thread.
  absl::Status Submit(std::function<void()> task);
  int queued() const;

 private:
  void Run();

  const std::string name_;
  const int max_threads_;
  const int max_queued_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  int idle_ = 0;
  bool stopping_ = false;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_WORKER_POOL_H_

#include "service/worker_pool.h"

#include <pthread.h>

#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/status.h"

namespace quantd {

WorkerPool::WorkerPool(std::string name, int max_threads, int max_queued)
    : name_(std::move(name)), max_threads_(max_threads), max_queued_(max_queued) {}

WorkerPool::~WorkerPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) {
    thread.join();
  }
}

absl::Status WorkerPool::Submit(std::function<void()> task) {
  std::lock_guard lock(mutex_);
  if (stopping_) {
    return absl::UnavailableError("the server is shutting down");
  }
  if (static_cast<int>(queue_.size()) >= max_queued_ + idle_) {
    return BusyError(absl::StrCat("the ", name_, " queue is full (", max_queued_,
                                  " requests wait); try again later"),
                     absl::Seconds(1));
  }
  if (idle_ <= static_cast<int>(queue_.size()) &&
      static_cast<int>(threads_.size()) < max_threads_) {
    try {
      threads_.emplace_back([this] { Run(); });
    } catch (const std::system_error&) {
      if (threads_.empty()) {
        return BusyError("the system gives no more threads; try again later", absl::Seconds(5));
      }
    }
  }
  queue_.push_back(std::move(task));
  wake_.notify_one();
  return absl::OkStatus();
}

int WorkerPool::queued() const {
  std::lock_guard lock(mutex_);
  return static_cast<int>(queue_.size());
}

void WorkerPool::Run() {
  pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_;
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    --idle_;
    if (queue_.empty()) {
      return;
    }
    std::function<void()> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task();
    task = nullptr;  // captured handles are released outside the lock
    lock.lock();
  }
}

}  // namespace quantd

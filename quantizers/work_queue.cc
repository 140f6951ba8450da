#include "quantizers/work_queue.h"

#include <utility>

namespace quantd {

WorkQueue::~WorkQueue() {
  std::deque<Item> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    dropped.swap(items_);
  }
  added_.notify_one();
  if (thread_.joinable()) thread_.join();
}

absl::Status WorkQueue::Add(uint64_t size, Work work) {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [&] { return left_ == 0 || held_ + size <= limit_ || !status_.ok(); });
  if (!status_.ok()) return status_;
  if (!thread_.joinable()) thread_ = std::thread([this] { Loop(); });
  items_.push_back({size, std::move(work)});
  held_ += size;
  ++left_;
  added_.notify_one();
  if (size > limit_) done_.wait(lock, [this] { return left_ == 0; });
  return status_;
}

absl::Status WorkQueue::Wait() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return left_ == 0; });
  return status_;
}

void WorkQueue::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    added_.wait(lock, [this] { return stopping_ || !items_.empty(); });
    if (items_.empty()) return;
    {
      Item item = std::move(items_.front());
      items_.pop_front();
      const bool failed = !status_.ok();
      lock.unlock();
      absl::Status status = failed ? absl::OkStatus() : item.work();
      item.work = nullptr;  // what it holds goes before it counts as done
      lock.lock();
      status_.Update(std::move(status));
      held_ -= item.size;
      --left_;
    }
    done_.notify_all();
  }
}

}  // namespace quantd

#include "service/timer.h"

#include <utility>

namespace quantd {

Timer::Timer() : thread_([this] { Run(); }) {}

void Timer::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) {
    thread_.join();
  }
  std::map<Id, std::function<void()>> dropped;
  std::lock_guard lock(mutex_);
  dropped.swap(pending_);
}

Timer::Id Timer::At(Clock::time_point when, std::function<void()> callback) {
  std::lock_guard lock(mutex_);
  const Id id{when, next_++};
  if (stopping_) {
    return id;
  }
  pending_.emplace(id, std::move(callback));
  if (pending_.begin()->first == id) {
    wake_.notify_one();
  }
  return id;
}

bool Timer::Cancel(const Id& id) {
  std::function<void()> dropped;  // its captures are released outside the lock
  std::lock_guard lock(mutex_);
  const auto it = pending_.find(id);
  if (it == pending_.end()) {
    return false;
  }
  dropped = std::move(it->second);
  pending_.erase(it);
  return true;
}

void Timer::Run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (pending_.empty()) {
      wake_.wait(lock);
      continue;
    }
    const auto first = pending_.begin();
    if (const Clock::time_point when = first->first.first; when > Clock::now()) {
      wake_.wait_until(lock, when);
      continue;
    }
    std::function<void()> callback = std::move(first->second);
    pending_.erase(first);
    lock.unlock();
    callback();
    callback = nullptr;
    lock.lock();
  }
}

}  // namespace quantd

// Work that is done beside what its owner does, in order: the writes of a job, and reading ahead.
#ifndef QUANTD_QUANTIZERS_WORK_QUEUE_H_
#define QUANTD_QUANTIZERS_WORK_QUEUE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "core/status.h"

namespace quantd {

// One thread, for one owner.
class WorkQueue {
 public:
  using Work = std::function<absl::Status()>;

  // `limit`: how much may wait or be under way, by the sizes that Add is told.
  explicit WorkQueue(uint64_t limit) : limit_(limit) {}
  // Drops what has not begun, and waits for what has.
  ~WorkQueue();
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Waits until there is room. Work beyond the limit is done when it returns. The first failure of
  // anything that was added; after one nothing is done any more.
  absl::Status Add(uint64_t size, Work work);
  // Until all is done.
  absl::Status Wait();
  // The queue is being destroyed: work that takes long asks for it and gives up.
  bool stopping() const { return stopping_; }

 private:
  struct Item {
    uint64_t size;
    Work work;
  };

  void Loop();

  const uint64_t limit_;
  std::mutex mutex_;
  std::condition_variable added_, done_;
  std::deque<Item> items_;
  uint64_t held_ = 0;  // sizes of items_ and of what is under way
  int left_ = 0;       // their number
  std::atomic<bool> stopping_ = false;
  absl::Status status_;
  std::thread thread_;  // from the first Add on
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_WORK_QUEUE_H_

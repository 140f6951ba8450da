// Runs small callbacks at a time, on one thread, by the monotonic clock. For deadlines, idle limits
// and rate limits of the service; callbacks must not block.
#ifndef QUANTD_SERVICE_TIMER_H_
#define QUANTD_SERVICE_TIMER_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

namespace quantd {

class Timer {
 public:
  using Clock = std::chrono::steady_clock;
  using Id = std::pair<Clock::time_point, uint64_t>;

  Timer();
  ~Timer() { Stop(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  Id At(Clock::time_point when, std::function<void()> callback);
  Id After(Clock::duration delay, std::function<void()> callback) {
    return At(Clock::now() + delay, std::move(callback));
  }
  // Waits for a running callback and drops what has not run yet. Nothing runs afterwards.
  void Stop();
  // False when it has run, runs now, or was cancelled.
  bool Cancel(const Id& id);

 private:
  void Run();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::map<Id, std::function<void()>> pending_;
  uint64_t next_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace quantd

#endif  // QUANTD_SERVICE_TIMER_H_

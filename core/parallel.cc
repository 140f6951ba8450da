#include "core/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "core/cpu_quota.h"
#include "core/team.h"

namespace quantd {
namespace {

std::atomic<int> requested_threads{0};
thread_local bool on_compute_thread = false;

struct Task {
  absl::FunctionRef<void()> body;
  bool done = false;
};

// Owns the only thread that ever opens an OpenMP region: libgomp keeps one team per opening thread,
// so a second one would double the number of threads.
class ComputeThread {
 public:
  ComputeThread() : thread_([this] { Loop(); }) {}
  ~ComputeThread() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_one();
    thread_.join();
  }

  void Run(TaskPriority priority, absl::FunctionRef<void()> body) {
    Task task{body};
    std::unique_lock lock(mutex_);
    (priority == TaskPriority::kInteractive ? interactive_ : background_).push_back(&task);
    work_.notify_one();
    finished_.wait(lock, [&task] { return task.done; });
  }

 private:
  void Loop() {
    on_compute_thread = true;
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock,
                 [this] { return stopping_ || !interactive_.empty() || !background_.empty(); });
      std::deque<Task*>& queue = interactive_.empty() ? background_ : interactive_;
      if (queue.empty()) return;
      Task* task = queue.front();
      queue.pop_front();
      lock.unlock();
      task->body();
      lock.lock();
      task->done = true;
      finished_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::deque<Task*> interactive_, background_;
  bool stopping_ = false;
  std::thread thread_;
};

ComputeThread& Pool() {
  static ComputeThread pool;
  return pool;
}

// Submits a loop as background tasks of a few milliseconds each, so that interactive work gets in
// between. The slice length follows the measured speed.
void RunInSlices(int64_t count, absl::FunctionRef<void(int64_t)> body) {
  using Clock = std::chrono::steady_clock;
  constexpr double kTargetSeconds = 0.005;
  int64_t slice = ComputeThreads();
  for (int64_t first = 0; first < count;) {
    const int64_t n = std::min(slice, count - first);
    const Clock::time_point start = Clock::now();
    RunCompute(TaskPriority::kBackground,
               [&] { ParallelFor(n, [&](int64_t i) { body(first + i); }); });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    const double ratio = std::clamp(kTargetSeconds / std::max(seconds, 1e-6), 0.5, 8.0);
    slice = std::max<int64_t>(ComputeThreads(), static_cast<int64_t>(n * ratio));
    first += n;
  }
}

}  // namespace

void SetComputeThreads(int threads) { requested_threads = threads; }

int ComputeThreads() {
  static const int available = AvailableCpus();
  const int requested = requested_threads.load(std::memory_order_relaxed);
  return requested > 0 ? requested : available;
}

void RunCompute(TaskPriority priority, absl::FunctionRef<void()> task) {
  if (on_compute_thread) {
    task();
  } else {
    Pool().Run(priority, task);
  }
}

void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> body) {
  if (count <= 0) return;
  if (!on_compute_thread) {
    RunInSlices(count, body);
    return;
  }
  const int threads = static_cast<int>(std::min<int64_t>(ComputeThreads(), count));
  if (threads == 1 || team::InTeam()) {
    for (int64_t i = 0; i < count; ++i) body(i);
    return;
  }
  team::ForEach(threads, count, body);
}

void ParallelTeam(absl::FunctionRef<void(int, int)> body) {
  const int threads = ComputeThreads();
  if (threads == 1) {
    body(0, 1);
    return;
  }
  team::ForEachMember(threads, body);
}

void TeamBarrier() { team::Barrier(); }

}  // namespace quantd

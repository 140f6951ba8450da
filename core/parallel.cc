#include "core/parallel.h"

#include <time.h>

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

using Clock = std::chrono::steady_clock;

std::atomic<int> requested_threads{0};
thread_local bool on_compute_thread = false;
thread_local bool lets_in_between = false;  // the task is RunBackground's

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
    if (priority == TaskPriority::kInteractive) last_interactive_ = Clock::now();
    (priority == TaskPriority::kInteractive ? interactive_ : background_).push_back(&task);
    work_.notify_one();
    finished_.wait(lock, [&task] { return task.done; });
  }

  // On the compute thread: interactive tasks that wait, before the task that runs goes on.
  void RunWaitingInteractive() {
    std::unique_lock lock(mutex_);
    while (!interactive_.empty()) RunFirst(interactive_, lock);
  }

  // Within the last second: a client that generates is there, or was.
  bool InteractiveLately() {
    std::lock_guard lock(mutex_);
    return Clock::now() - last_interactive_ < std::chrono::seconds(1);
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
      RunFirst(queue, lock);
    }
  }

  void RunFirst(std::deque<Task*>& queue, std::unique_lock<std::mutex>& lock) {
    Task* task = queue.front();
    queue.pop_front();
    lock.unlock();
    task->body();
    lock.lock();
    task->done = true;
    finished_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable work_, finished_;
  std::deque<Task*> interactive_, background_;
  Clock::time_point last_interactive_;  // the epoch: never
  bool stopping_ = false;
  std::thread thread_;
};

ComputeThread& Pool() {
  static ComputeThread pool;
  return pool;
}

double CpuSeconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// body(i) for i in [first, first + count) by the team, on the compute thread. Returns the
// processor time that the bodies took, all members together.
double RunSlice(int64_t first, int64_t count, absl::FunctionRef<void(int64_t)> body) {
  std::atomic<int64_t> next{first};
  std::atomic<double> total{0};
  const auto member = [&](int, int) {
    const double start = CpuSeconds();
    for (int64_t i = next++; i < first + count; i = next++) body(i);
    total.fetch_add(CpuSeconds() - start);
  };
  const int threads = static_cast<int>(std::min<int64_t>(ComputeThreads(), count));
  if (threads == 1) {
    member(0, 1);
  } else {
    team::ForEachMember(threads, member);
  }
  return total;
}

// A loop whose slices let interactive work in between, and after `turn` other background work, too.
// The slice length follows the processor time that the iterations take: on a machine that others
// use too, the time on the wall says nothing about them.
class SlicedLoop {
 public:
  SlicedLoop(int64_t count, absl::FunctionRef<void(int64_t)> body, double seconds)
      : count_(count), body_(body), slice_(ComputeThreads()) {
    if (seconds > 0) Aim(std::min(Wanted(seconds), static_cast<double>(count)));
  }

  bool done() const { return first_ >= count_; }

  // On the compute thread, as long as it may.
  void Go(Clock::duration turn) {
    const Clock::time_point end = Clock::now() + turn;
    do {
      const int64_t n = std::min(slice_, count_ - first_);
      lets_in_between = false;
      const double cpu = RunSlice(first_, n, body_);
      Pool().RunWaitingInteractive();
      lets_in_between = true;
      first_ += n;
      Aim(std::min(Wanted(std::max(cpu, 1e-7) / static_cast<double>(n)),
                   8.0 * static_cast<double>(n)));
    } while (!done() && Clock::now() < end);
  }

 private:
  // Iterations of a slice, where one takes `seconds`.
  static double Wanted(double seconds) {
    constexpr double kBesideInteractive = 0.005, kAlone = 0.05;  // seconds
    const double target = Pool().InteractiveLately() ? kBesideInteractive : kAlone;
    return target * static_cast<double>(ComputeThreads()) / seconds;
  }
  void Aim(double wanted) {
    slice_ = std::max<int64_t>(static_cast<int64_t>(wanted), ComputeThreads());
  }

  const int64_t count_;
  const absl::FunctionRef<void(int64_t)> body_;
  int64_t first_ = 0, slice_;
};

void RunInSlices(int64_t count, absl::FunctionRef<void(int64_t)> body, double seconds) {
  constexpr Clock::duration kTurn = std::chrono::milliseconds(50);
  SlicedLoop loop(count, body, seconds);
  if (on_compute_thread) {
    loop.Go(Clock::duration::max() / 4);
    return;
  }
  while (!loop.done()) RunBackground([&] { loop.Go(kTurn); });
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

void RunBackground(absl::FunctionRef<void()> body) {
  if (on_compute_thread) {
    body();
    return;
  }
  RunCompute(TaskPriority::kBackground, [&] {
    lets_in_between = true;
    body();
    lets_in_between = false;
  });
}

void ParallelFor(int64_t count, absl::FunctionRef<void(int64_t)> body, double seconds) {
  if (count <= 0) return;
  // A member of the team is not the compute thread and must not wait for it.
  const bool nested = team::InTeam();
  if (!nested && (!on_compute_thread || lets_in_between)) {
    RunInSlices(count, body, seconds);
    return;
  }
  const int threads = static_cast<int>(std::min<int64_t>(ComputeThreads(), count));
  if (threads == 1 || nested) {
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

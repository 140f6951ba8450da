#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "core/team.h"

namespace quantd::team {
namespace {

using MemberBody = absl::FunctionRef<void(int, int)>;

thread_local bool in_team = false;

// Threads that wait for regions; the caller is member 0.
class Team {
 public:
  void Run(int threads, MemberBody body) {
    {
      std::lock_guard lock(mutex_);
      for (int member = static_cast<int>(workers_.size()) + 1; member < threads; ++member) {
        workers_.emplace_back([this, member, seen = region_] { Work(member, seen); });
      }
      body_ = &body;
      threads_ = running_ = threads;
      ++region_;
    }
    forked_.notify_all();
    RunMember(0, body, threads);
    std::unique_lock lock(mutex_);
    joined_.wait(lock, [this] { return running_ == 0; });
  }

  void Wait() {
    std::unique_lock lock(mutex_);
    const uint64_t meeting = meeting_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++meeting_;
      met_.notify_all();
    } else {
      met_.wait(lock, [&] { return meeting_ != meeting; });
    }
  }

 private:
  void Work(int member, uint64_t seen) {
    std::unique_lock lock(mutex_);
    while (true) {
      forked_.wait(lock, [&] { return region_ != seen; });
      seen = region_;
      if (member >= threads_) continue;
      const MemberBody body = *body_;
      const int threads = threads_;
      lock.unlock();
      RunMember(member, body, threads);
      lock.lock();
    }
  }

  void RunMember(int member, MemberBody body, int threads) {
    in_team = threads > 1;
    body(member, threads);
    in_team = false;
    std::lock_guard lock(mutex_);
    if (--running_ == 0) joined_.notify_one();
  }

  std::mutex mutex_;
  std::condition_variable forked_, joined_, met_;
  std::vector<std::thread> workers_;
  const MemberBody* body_ = nullptr;
  uint64_t region_ = 0, meeting_ = 0;
  int threads_ = 0, running_ = 0, waiting_ = 0;
};

// Never destroyed: the compute thread may still be in a region while statics are.
Team& TheTeam() {
  static Team* const team = new Team;
  return *team;
}

}  // namespace

bool InTeam() { return in_team; }

void ForEach(int threads, int64_t count, absl::FunctionRef<void(int64_t)> body) {
  std::atomic<int64_t> next{0};
  ForEachMember(threads, [&](int, int) {
    for (int64_t i = next++; i < count; i = next++) body(i);
  });
}

void ForEachMember(int threads, MemberBody body) { TheTeam().Run(threads, body); }

void Barrier() {
  if (in_team) TheTeam().Wait();
}

}  // namespace quantd::team

#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <mutex>
#include <thread>
#include <vector>

namespace quantd {
namespace {

TEST(Parallel, EveryIndexRunsOnce) {
  std::vector<std::atomic<int>> seen(1000);
  ParallelFor(1000, [&](int64_t i) { ++seen[i]; });
  for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
}

TEST(Parallel, LoopsInsideLoopsRunInPlace) {
  SetComputeThreads(3);
  std::vector<std::atomic<int>> seen(200);
  ParallelFor(20, [&](int64_t i) {
    ParallelFor(10, [&](int64_t j) { ++seen[i * 10 + j]; });
  });
  SetComputeThreads(0);
  for (const auto& count : seen) EXPECT_EQ(count.load(), 1);
}

TEST(Parallel, ConcurrentCallersShareOneTeam) {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 8; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        ParallelFor(16, [&](int64_t) {
          std::lock_guard lock(mutex);
          threads.insert(std::this_thread::get_id());
        });
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_LE(threads.size(), static_cast<size_t>(ComputeThreads()));
}

TEST(Parallel, TeamMembersMeetAtBarriers) {
  std::atomic<int> before{0};
  std::atomic<bool> ok{true};
  RunCompute(TaskPriority::kInteractive, [&] {
    ParallelTeam([&](int, int threads) {
      ++before;
      TeamBarrier();
      if (before != threads) ok = false;
    });
  });
  EXPECT_TRUE(ok);
}

}  // namespace
}  // namespace quantd

#include "core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <set>
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
  ParallelFor(20, [&](int64_t i) { ParallelFor(10, [&](int64_t j) { ++seen[i * 10 + j]; }); });
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

TEST(Parallel, InteractiveTasksRunInsideBackgroundWork) {
  std::atomic<bool> is_running{false}, came_in{false};
  bool was_before_the_end = false;
  std::thread client([&] {
    while (!is_running) std::this_thread::yield();
    RunCompute(TaskPriority::kInteractive, [&] { came_in = true; });
  });
  RunBackground([&] {
    is_running = true;
    // Some loops; far more than the client needs to come.
    for (int loop = 0; loop < 100000 && !was_before_the_end; ++loop) {
      std::atomic<int> sum{0};
      ParallelFor(4, [&](int64_t i) { sum += static_cast<int>(i); });
      ASSERT_EQ(sum, 6);
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      was_before_the_end = came_in;
    }
  });
  client.join();
  EXPECT_TRUE(was_before_the_end);
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

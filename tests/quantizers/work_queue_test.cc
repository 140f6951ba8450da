#include "quantizers/work_queue.h"

#include <gtest/gtest.h>

#include <future>
#include <memory>
#include <thread>
#include <vector>

namespace quantd {
namespace {

TEST(WorkQueue, WorksInOrder) {
  std::vector<int> done;
  WorkQueue queue(10);
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(queue
                    .Add(3,
                         [&done, i] {
                           done.push_back(i);
                           return absl::OkStatus();
                         })
                    .ok());
  }
  EXPECT_TRUE(queue.Wait().ok());
  ASSERT_EQ(done.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(done[i], i);
}

// A queue whose first piece of work waits until it is let go.
class HeldQueue {
 public:
  explicit HeldQueue(uint64_t limit) : queue_(limit) {
    EXPECT_TRUE(queue_
                    .Add(6,
                         [this] {
                           begun_.set_value();
                           go_.get_future().wait();
                           return status_;
                         })
                    .ok());
    begun_.get_future().wait();
  }
  void LetGo(absl::Status status = absl::OkStatus()) {
    status_ = std::move(status);
    go_.set_value();
  }
  WorkQueue& operator*() { return queue_; }
  WorkQueue* operator->() { return &queue_; }

 private:
  std::promise<void> begun_, go_;
  absl::Status status_;
  WorkQueue queue_;
};

TEST(WorkQueue, HoldsNoMoreThanItsLimit) {
  HeldQueue queue(10);
  const auto nothing = [] { return absl::OkStatus(); };
  EXPECT_TRUE(queue->Add(4, nothing).ok());
  auto added = std::async(std::launch::async, [&] { return queue->Add(1, nothing); });
  EXPECT_EQ(added.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  queue.LetGo();
  EXPECT_TRUE(added.get().ok());
}

TEST(WorkQueue, WaitsForWhatIsBeyondTheLimit) {
  WorkQueue queue(10);
  bool done = false;
  EXPECT_TRUE(queue
                  .Add(11,
                       [&done] {
                         done = true;
                         return absl::OkStatus();
                       })
                  .ok());
  EXPECT_TRUE(done);
}

TEST(WorkQueue, TheFirstFailureStopsTheRest) {
  HeldQueue queue(100);
  bool done = false;
  const auto next = [&done] {
    done = true;
    return absl::InternalError("second");
  };
  EXPECT_TRUE(queue->Add(1, next).ok());
  queue.LetGo(absl::DataLossError("first"));
  EXPECT_EQ(queue->Wait(), absl::DataLossError("first"));
  EXPECT_EQ(queue->Add(1, next), absl::DataLossError("first"));
  EXPECT_EQ(queue->Wait(), absl::DataLossError("first"));
  EXPECT_FALSE(done);
}

TEST(WorkQueue, DropsWhatHasNotBegun) {
  bool begun = false, ended = false, stopping = false;
  auto kept = std::make_shared<int>(1);
  {
    WorkQueue queue(10);
    std::promise<void> under_way;
    ASSERT_TRUE(queue
                    .Add(1,
                         [&] {
                           under_way.set_value();
                           while (!queue.stopping()) std::this_thread::yield();
                           stopping = true;
                           ended = true;
                           return absl::OkStatus();
                         })
                    .ok());
    ASSERT_TRUE(queue
                    .Add(1,
                         [&begun, kept] {
                           begun = true;
                           return absl::OkStatus();
                         })
                    .ok());
    under_way.get_future().wait();
  }
  EXPECT_TRUE(ended && stopping);
  EXPECT_FALSE(begun);
  EXPECT_EQ(kept.use_count(), 1);
}

}  // namespace
}  // namespace quantd

#include "service/operations.h"

#include <gtest/gtest.h>

#include <future>
#include <set>

namespace quantd {
namespace {

OperationStore::Request Job(const std::string& output, OperationStore::Work work) {
  OperationStore::Request request;
  request.subject = {"quantize", "model", output, "method"};
  request.work = std::move(work);
  return request;
}

absl::StatusOr<QuantizeReport> Succeed(JobControl&) {
  QuantizeReport report;
  report.output_name = "out";
  return report;
}

// Runs until told to stop.
absl::StatusOr<QuantizeReport> RunUntilStopped(JobControl& control) {
  for (int i = 0;; ++i) {
    if (control.cancel) return absl::CancelledError("cancelled");
    if (control.drain) return absl::AbortedError("drained");
    QuantizeProgress progress;
    progress.tensors_done = i;
    control.on_progress(progress);
    std::this_thread::yield();
  }
}

// Waits for a condition that watchers tell about, without a time of its own.
OperationSnapshot WaitFor(OperationStore& store, const std::string& name,
                          const std::function<bool(const OperationSnapshot&)>& wanted) {
  std::mutex mutex;
  std::condition_variable changed;
  uint64_t changes = 0;
  const auto watch = store.Watch(name, [&] {
    std::lock_guard lock(mutex);
    ++changes;
    changed.notify_all();
  });
  EXPECT_TRUE(watch.ok());
  while (true) {
    uint64_t seen;
    {
      std::lock_guard lock(mutex);
      seen = changes;
    }
    OperationSnapshot snapshot = *store.Get(name);
    if (wanted(snapshot)) return snapshot;
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return changes != seen; });
  }
}

OperationSnapshot WaitDone(OperationStore& store, const std::string& name) {
  return WaitFor(store, name, [](const auto& snapshot) { return snapshot.done(); });
}

bool IsRunning(const OperationSnapshot& snapshot) {
  return snapshot.state == OperationState::kRunning;
}

TEST(OperationStore, RunsToTheReport) {
  OperationStore store({});
  const auto started = store.Start(Job("out", Succeed));
  ASSERT_TRUE(started.ok());
  EXPECT_TRUE(started->name.starts_with("operations/"));
  const OperationSnapshot done = WaitDone(store, started->name);
  EXPECT_EQ(done.state, OperationState::kSucceeded);
  ASSERT_NE(done.report, nullptr);
  EXPECT_EQ(done.report->output_name, "out");
}

TEST(OperationStore, KeepsTheError) {
  OperationStore store({});
  const auto started = store.Start(Job("out", [](JobControl&) -> absl::StatusOr<QuantizeReport> {
    return absl::DataLossError("the file shrank");
  }));
  const OperationSnapshot done = WaitDone(store, started->name);
  EXPECT_EQ(done.state, OperationState::kFailed);
  EXPECT_EQ(done.status, absl::DataLossError("the file shrank"));
}

TEST(OperationStore, CancelsRunningAndQueuedOnes) {
  OperationStore store({});
  const auto running = store.Start(Job("a", RunUntilStopped));
  WaitFor(store, running->name, IsRunning);
  const auto queued = store.Start(Job("b", Succeed));
  EXPECT_EQ(queued->state, OperationState::kQueued);
  ASSERT_TRUE(store.Cancel(queued->name).ok());
  EXPECT_EQ(store.Get(queued->name)->state, OperationState::kCancelled);
  ASSERT_TRUE(store.Cancel(running->name).ok());
  EXPECT_EQ(WaitDone(store, running->name).state, OperationState::kCancelled);
  // Cancelling what has ended changes nothing.
  EXPECT_TRUE(store.Cancel(queued->name).ok());
  EXPECT_EQ(store.Get(queued->name)->state, OperationState::kCancelled);
}

TEST(OperationStore, OneOfCancelAndFinishWins) {
  for (int i = 0; i < 50; ++i) {
    OperationStore store({});
    std::promise<void> go;
    const auto started = store.Start(Job("out", [&](JobControl& control) {
      go.get_future().wait();
      return control.cancel ? absl::StatusOr<QuantizeReport>(absl::CancelledError("cancelled"))
                            : Succeed(control);
    }));
    std::vector<OperationState> seen;
    std::thread canceller([&] { store.Cancel(started->name).IgnoreError(); });
    go.set_value();
    const OperationState first = WaitDone(store, started->name).state;
    canceller.join();
    EXPECT_TRUE(first == OperationState::kSucceeded || first == OperationState::kCancelled);
    EXPECT_EQ(store.Get(started->name)->state, first);
  }
}

TEST(OperationStore, RepeatedRequestIdGivesTheSameOperation) {
  OperationStore store({});
  OperationStore::Request request = Job("out", Succeed);
  request.request_id = "id";
  request.fingerprint = "same";
  const auto first = store.Start(request);
  const auto second = store.Start(request);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(first->name, second->name);
  request.fingerprint = "other";
  EXPECT_TRUE(absl::IsInvalidArgument(store.Start(request).status()));
}

TEST(OperationStore, OneWriterPerOutput) {
  OperationStore store({});
  const auto first = store.Start(Job("out", RunUntilStopped));
  EXPECT_TRUE(absl::IsAborted(store.Start(Job("out", Succeed)).status()));
  ASSERT_TRUE(store.Cancel(first->name).ok());
  WaitDone(store, first->name);
  EXPECT_TRUE(store.Start(Job("out", Succeed)).ok());
}

TEST(OperationStore, QueueIsBounded) {
  OperationStore::Options options;
  options.max_queued = 2;
  OperationStore store(options);
  const auto running = store.Start(Job("0", RunUntilStopped));
  WaitFor(store, running->name, IsRunning);
  EXPECT_TRUE(store.Start(Job("1", Succeed)).ok());
  EXPECT_TRUE(store.Start(Job("2", Succeed)).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(store.Start(Job("3", Succeed)).status()));
}

TEST(OperationStore, DrainInterruptsWhatHasNotEnded) {
  OperationStore store({});
  const auto running = store.Start(Job("a", RunUntilStopped));
  WaitFor(store, running->name, IsRunning);
  const auto queued = store.Start(Job("b", Succeed));
  store.Drain();
  EXPECT_EQ(WaitDone(store, running->name).state, OperationState::kInterrupted);
  EXPECT_EQ(WaitDone(store, queued->name).state, OperationState::kInterrupted);
  EXPECT_TRUE(absl::IsUnavailable(store.Start(Job("c", Succeed)).status()));
  EXPECT_TRUE(store.WaitIdle(absl::Seconds(10)));
}

TEST(OperationStore, ListsNewestFirstInPages) {
  OperationStore store({});
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) {
    names.push_back(store.Start(Job(std::to_string(i), Succeed))->name);
    WaitDone(store, names.back());
  }
  std::vector<std::string> listed;
  std::string token;
  do {
    const auto page = store.List("done=true", 2, token);
    ASSERT_TRUE(page.ok());
    EXPECT_LE(page->operations.size(), 2u);
    for (const auto& operation : page->operations) listed.push_back(operation.name);
    token = page->next_token;
  } while (!token.empty());
  EXPECT_EQ(listed, std::vector<std::string>(names.rbegin(), names.rend()));
  EXPECT_TRUE(store.List("done=false", 0, "")->operations.empty());
  EXPECT_FALSE(store.List("state=DONE", 0, "").ok());
  EXPECT_FALSE(store.List("", -1, "").ok());
  EXPECT_FALSE(store.List("", 0, "made-up").ok());
}

TEST(OperationStore, DeletesOnlyWhatHasEnded) {
  OperationStore store({});
  const auto started = store.Start(Job("out", RunUntilStopped));
  EXPECT_TRUE(absl::IsFailedPrecondition(store.Delete(started->name)));
  ASSERT_TRUE(store.Cancel(started->name).ok());
  WaitDone(store, started->name);
  EXPECT_TRUE(store.Delete(started->name).ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get(started->name).status()));
  EXPECT_TRUE(absl::IsNotFound(store.Cancel("operations/none")));
}

class FakeRecords final : public OperationRecords {
 public:
  void Save(const OperationSnapshot& operation) override {
    std::lock_guard lock(mutex_);
    saved.insert(operation.subject.output_name);
  }
  void Remove(const OperationSnapshot& operation) override {
    std::lock_guard lock(mutex_);
    saved.erase(operation.subject.output_name);
  }
  std::vector<OperationSnapshot> LoadInterrupted() override {
    OperationSnapshot snapshot;
    snapshot.name = "operations/before";
    snapshot.subject.output_name = "half";
    snapshot.status = absl::AbortedError("resume");
    return {snapshot};
  }
  std::mutex mutex_;
  std::set<std::string> saved;
};

TEST(OperationStore, RemembersInterruptedOnesAcrossProcesses) {
  FakeRecords records;
  OperationStore::Options options;
  options.records = &records;
  OperationStore store(options);
  EXPECT_EQ(store.Get("operations/before")->state, OperationState::kInterrupted);
  const auto resumed = store.Start(Job("half", Succeed));
  ASSERT_TRUE(resumed.ok());
  EXPECT_TRUE(absl::IsNotFound(store.Get("operations/before").status()));
  EXPECT_EQ(WaitDone(store, resumed->name).state, OperationState::kSucceeded);
  EXPECT_TRUE(records.saved.empty());
  const auto running = store.Start(Job("other", RunUntilStopped));
  WaitFor(store, running->name, IsRunning);
  store.Drain();
  WaitDone(store, running->name);
  EXPECT_TRUE(records.saved.contains("other"));
}

TEST(OperationStore, ManyWatchersComeAndGo) {
  OperationStore store({});
  const auto started = store.Start(Job("out", RunUntilStopped));
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      for (int k = 0; k < 25; ++k) {
        std::atomic<int> calls{0};
        const auto watch = store.Watch(started->name, [&] { ++calls; });
        EXPECT_TRUE(watch.ok());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(store.Cancel(started->name).ok());
  EXPECT_EQ(WaitDone(store, started->name).state, OperationState::kCancelled);
}

}  // namespace
}  // namespace quantd

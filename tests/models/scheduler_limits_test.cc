// What the scheduler does at its limits: a full queue, no memory, a drain, an unload.
#include <thread>

#include "generation_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

using testing::HasSubstr;

TEST(SchedulerLimits, RefusesWhenTheQueueIsFull) {
  const auto model = LoadTiny({.max_sequences = 1, .max_queued = 2});
  const auto blocker = Block(*model);
  const auto first = Start(*model, {2}, Greedy(1));
  const auto second = Start(*model, {3}, Greedy(1));
  EXPECT_EQ(model->activity().queued, 2);
  EXPECT_EQ(
      model->Generate({4}, Greedy(1), absl::InfiniteFuture(), std::make_shared<Collector>()).code(),
      absl::StatusCode::kResourceExhausted);
  blocker->ready = true;
  EXPECT_TRUE(first->Wait().ok());
  EXPECT_TRUE(second->Wait().ok());
}

TEST(SchedulerLimits, CountsStepsAndReservedCaches) {
  const auto model = LoadTiny({.context_length = 256, .max_sequences = 4});
  const ModelMemory before = model->memory();
  EXPECT_EQ(before.kv_bytes_in_use, 0u);
  EXPECT_EQ(before.kv_bytes_full, 4 * 256 * before.kv_bytes_per_token);
  EXPECT_EQ(model->activity().batches.sequences, 0u);
  // Two sequences side by side, then a third alone.
  const auto blocker = Block(*model);
  const auto other = Block(*model);
  while (model->activity().running < 2) std::this_thread::yield();
  // Whole granules of 128 tokens.
  EXPECT_EQ(model->memory().kv_bytes_in_use, 2 * 128 * before.kv_bytes_per_token);
  blocker->ready = other->ready = true;
  EXPECT_TRUE(blocker->Wait().ok() && other->Wait().ok());
  EXPECT_TRUE(Start(*model, {7}, Greedy(3))->Wait().ok());
  const BatchSizes batches = model->activity().batches;
  EXPECT_EQ(batches.sequences, 5u + 5u + 3u);  // a step for each of their tokens
  EXPECT_GE(batches.steps[0], 3u);
  EXPECT_EQ(batches.steps[0] + 2 * batches.steps[1], batches.sequences);
  while (model->memory().kv_bytes_in_use > 0) std::this_thread::yield();
}

TEST(SchedulerLimits, EndsLateAndCancelledRequestsInTheQueue) {
  const auto model = LoadTiny({.max_sequences = 1});
  const auto blocker = Block(*model);
  const auto late = Start(*model, {2}, Greedy(1), absl::Now() + absl::Milliseconds(20));
  const auto gone = Start(*model, {3}, Greedy(1));
  gone->cancelled = true;
  EXPECT_EQ(late->Wait().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(gone->Wait().code(), absl::StatusCode::kCancelled);
  blocker->ready = true;
  EXPECT_TRUE(blocker->Wait().ok());
}

TEST(SchedulerLimits, ReservesKvMemoryOrRefuses) {
  const ModelMemory whole = LoadTiny({.context_length = 256})->memory();
  const uint64_t fixed = whole.weight_bytes + whole.workspace_bytes;
  LoadOptions options = {.context_length = 256};
  options.memory_limit_bytes = fixed + 200 * whole.kv_bytes_per_token;
  const auto model = LoadTiny(options);
  const absl::Status refused = model->Generate(Prompt(1, 100), Greedy(100), absl::InfiniteFuture(),
                                               std::make_shared<Collector>());
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  // Two that fit one after the other only.
  const auto first = Start(*model, Prompt(1, 60), Greedy(30));
  const auto second = Start(*model, Prompt(2, 60), Greedy(30));
  EXPECT_TRUE(first->Wait().ok());
  EXPECT_TRUE(second->Wait().ok());
  EXPECT_LE(model->memory().kv_bytes, 200 * whole.kv_bytes_per_token);
  options.memory_limit_bytes = fixed / 2;
  const auto none = Model::Load(RandomDecoder(TinyDecoderConfig(), 11), options);
  EXPECT_EQ(none.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(SchedulerLimits, DrainWaitsForRunningAndRefusesNew) {
  const auto model = LoadTiny();
  const auto sink = Start(*model, Prompt(9, 6), Greedy(100));
  model->Drain(absl::InfiniteFuture());
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens.size(), 100u);
  EXPECT_EQ(
      model->Generate({1}, Greedy(1), absl::InfiniteFuture(), std::make_shared<Collector>()).code(),
      absl::StatusCode::kUnavailable);
  EXPECT_EQ(model->Logits({{1}}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(SchedulerLimits, DrainEndsTheRestAtItsDeadline) {
  const auto model = LoadTiny({.max_sequences = 1});
  const auto blocker = Block(*model);
  const auto waiting = Start(*model, {2}, Greedy(1));
  model->Drain(absl::Now());
  EXPECT_EQ(blocker->Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting->Wait().code(), absl::StatusCode::kUnavailable);
}

TEST(SchedulerLimits, UnloadWhileStreamingEndsTheStream) {
  auto model = LoadTiny();
  const auto sink = Start(*model, Prompt(1, 3), Greedy(250));
  sink->WaitForTokens(1);
  model.reset();
  const absl::Status status = sink->Wait();
  EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kUnavailable) << status;
}

TEST(SchedulerLimits, AStreamMayHoldTheLastHandle) {
  auto model = LoadTiny();
  auto sink = std::make_shared<Collector>();
  sink->model = model;
  ASSERT_TRUE(model->Generate(Prompt(1, 3), Greedy(50), absl::InfiniteFuture(), sink).ok());
  model.reset();  // the scheduler thread drops the last one
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens.size(), 50u);
}

TEST(ModelLoad, RefusesWhatDoesNotFit) {
  EXPECT_EQ(
      Model::Load(RandomDecoder(TinyDecoderConfig(), 1), {.context_length = 257}).status().code(),
      absl::StatusCode::kInvalidArgument);
  ModelConfig windowed = TinyDecoderConfig();
  windowed.sliding_window = 100;
  const absl::Status window =
      Model::Load(RandomDecoder(windowed, 1), {.context_length = 101}).status();
  EXPECT_EQ(window.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(window.message()), HasSubstr("sliding window"));
  EXPECT_EQ(Model::Load(RandomDecoder(windowed, 1), {}).value()->context_length(), 100);
  LoadOptions cancelled;
  cancelled.cancelled = [] { return true; };
  EXPECT_EQ(Model::Load(RandomDecoder(TinyDecoderConfig(), 1), cancelled).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(Model::Load(RandomDecoder(TinyDecoderConfig(), 1), {.device = "tpu"}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ModelLoad, EstimatesAtLeastWhatItHolds) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  const ModelMemory estimate = Model::EstimateMemory(*source, {}).value();
  const ModelMemory held = LoadTiny()->memory();
  EXPECT_GE(estimate.weight_bytes + 65536, held.weight_bytes);
  EXPECT_EQ(estimate.workspace_bytes, held.workspace_bytes);
  EXPECT_GT(held.kv_bytes_per_token, 0u);
  const LoadOptions exact = {.compute = Compute::kExact};
  EXPECT_GE(
      Model::EstimateMemory(*source, exact).value().weight_bytes + 65536,
      Model::Load(RandomDecoder(TinyDecoderConfig(), 1), exact).value()->memory().weight_bytes);
}

}  // namespace
}  // namespace quantd

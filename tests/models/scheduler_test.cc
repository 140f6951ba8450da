// Generation through the scheduler: what every client gets, alone and among others.
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <limits>
#include <mutex>
#include <thread>

#include "core/parallel.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory_source.h"
#include "models/model.h"

namespace quantd {
namespace {

using testing::HasSubstr;

// One compute thread: these tests are about the scheduler.
const bool kOneThread = [] {
  SetComputeThreads(1);
  return true;
}();

// Collects a generation's output; a test may close the tap or leave.
class Collector : public GenerationSink {
 public:
  bool Push(GenerationChunk chunk) override {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(status_.has_value()) << "pushed after the end";
    text += chunk.text;
    tokens.insert(tokens.end(), chunk.token_ids.begin(), chunk.token_ids.end());
    logprobs.insert(logprobs.end(), chunk.logprobs.begin(), chunk.logprobs.end());
    changed_.notify_all();
    return static_cast<int>(tokens.size()) < leave_after;
  }
  bool Ready() const override { return ready; }
  bool Cancelled() const override { return cancelled; }
  void Finish(absl::Status status, FinishReason finish_reason,
              const GenerationUsage& final_usage) override {
    std::shared_ptr<Model> released;  // outlives the lock
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(status_.has_value()) << "finished twice";
    status_ = status;
    reason = finish_reason;
    usage = final_usage;
    released = std::exchange(model, nullptr);
    changed_.notify_all();
  }

  absl::Status Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return status_.has_value(); });
    return *status_;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tokens.size() >= count || status_.has_value(); });
  }

  std::atomic<bool> ready{true}, cancelled{false};
  int leave_after = std::numeric_limits<int>::max();
  std::shared_ptr<Model> model;  // a handle that the stream holds
  // To be read after Wait.
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  FinishReason reason = FinishReason::kLength;
  GenerationUsage usage;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::Status> status_;
};

std::shared_ptr<Model> LoadTiny(const LoadOptions& options = {}, bool tokenizer = false) {
  auto source = RandomDecoder(TinyDecoderConfig(), 11);
  if (tokenizer) source->SetSideFile("tokenizer.json", WordTokenizerJson(97));
  auto model = Model::Load(std::move(source), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(model).value();
}

std::vector<int32_t> Prompt(int seed, int length) {
  std::vector<int32_t> ids(length);
  for (int i = 0; i < length; ++i) ids[i] = (seed * 13 + i * 29) % 97;
  return ids;
}

GenerationOptions Greedy(int max_tokens) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.ignore_eos = true;
  return options;
}

std::shared_ptr<Collector> Start(Model& model, std::vector<int32_t> prompt,
                                 const GenerationOptions& options,
                                 absl::Time deadline = absl::InfiniteFuture()) {
  auto sink = std::make_shared<Collector>();
  const absl::Status status = model.Generate(std::move(prompt), options, deadline, sink);
  EXPECT_TRUE(status.ok()) << status;
  return sink;
}

std::vector<int32_t> GenerateAlone(Model& model, const std::vector<int32_t>& prompt, int count) {
  const auto sink = Start(model, prompt, Greedy(count));
  EXPECT_TRUE(sink->Wait().ok());
  return sink->tokens;
}

TEST(Scheduler, ContinuesWithTheMostLikelyTokens) {
  const auto model = LoadTiny({.compute = Compute::kExact});
  std::vector<int32_t> tokens = Prompt(1, 9);
  const auto sink = Start(*model, tokens, Greedy(6));
  ASSERT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->reason, FinishReason::kLength);
  EXPECT_EQ(sink->usage.prompt_tokens, 9);
  EXPECT_EQ(sink->usage.generated_tokens, 6);
  for (const int32_t generated : sink->tokens) {
    const std::vector<float> logits = model->Logits({tokens}).value();
    const auto last = logits.end() - 97;
    EXPECT_EQ(std::max_element(last, logits.end()) - last, generated);
    tokens.push_back(generated);
  }
}

TEST(Scheduler, GivesTheSameTokensInABatchAsAlone) {
  const auto model = LoadTiny({.max_sequences = 5});
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 12; ++i) alone.push_back(GenerateAlone(*model, Prompt(i, 1 + 11 * i), 16));
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 12; ++i) sinks.push_back(Start(*model, Prompt(i, 1 + 11 * i), Greedy(16)));
  for (int i = 0; i < 12; ++i) {
    EXPECT_TRUE(sinks[i]->Wait().ok());
    EXPECT_EQ(sinks[i]->tokens, alone[i]) << i;
  }
}

TEST(Scheduler, GivesLogprobsWhenAsked) {
  const auto model = LoadTiny({.compute = Compute::kExact});
  GenerationOptions options = Greedy(5);
  options.logprobs = true;
  const auto sink = Start(*model, Prompt(2, 4), options);
  ASSERT_TRUE(sink->Wait().ok());
  ASSERT_EQ(sink->logprobs.size(), 5u);
  std::vector<int32_t> tokens = Prompt(2, 4);
  tokens.insert(tokens.end(), sink->tokens.begin(), sink->tokens.end());
  const std::vector<TokenScore> scores = model->Score(tokens, 1).value();
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_NEAR(scores[4 + i].logprob, sink->logprobs[i], 1e-4);
    EXPECT_EQ(scores[4 + i].top_ids[0], sink->tokens[i]);
  }
}

TEST(Scheduler, EndsAtEos) {
  const auto probe = LoadTiny();
  const std::vector<int32_t> tokens = GenerateAlone(*probe, Prompt(3, 5), 8);
  ModelConfig config = TinyDecoderConfig();
  config.eos_token_ids = {tokens[3]};
  const auto model = Model::Load(RandomDecoder(config, 11), {}).value();
  GenerationOptions options = Greedy(8);
  options.ignore_eos = false;
  const auto sink = Start(*model, Prompt(3, 5), options);
  ASSERT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->reason, FinishReason::kEos);
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[3]);
  EXPECT_EQ(sink->tokens, std::vector<int32_t>(tokens.begin(), first));
}

TEST(Scheduler, EndsBeforeAStopString) {
  const auto model = LoadTiny({}, /*tokenizer=*/true);
  const auto whole = Start(*model, Prompt(4, 5), Greedy(12));
  ASSERT_TRUE(whole->Wait().ok());
  ASSERT_EQ(whole->tokens.size(), 12u);
  ASSERT_GT(whole->text.size(), 20u);
  GenerationOptions options = Greedy(12);
  options.stop = {whole->text.substr(12, 5)};
  const auto sink = Start(*model, Prompt(4, 5), options);
  ASSERT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->reason, FinishReason::kStop);
  EXPECT_EQ(sink->text, whole->text.substr(0, whole->text.find(options.stop[0])));
}

TEST(Scheduler, RefusesBadRequestsAtOnce) {
  const auto model = LoadTiny();
  const auto code = [&](std::vector<int32_t> prompt, const GenerationOptions& options) {
    return model
        ->Generate(std::move(prompt), options, absl::InfiniteFuture(),
                   std::make_shared<Collector>())
        .code();
  };
  EXPECT_EQ(code({}, Greedy(1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({-1}, Greedy(1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({97}, Greedy(1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code({1}, Greedy(0)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(Prompt(1, 256), Greedy(1)), absl::StatusCode::kOutOfRange);
  GenerationOptions hot = Greedy(1);
  hot.sampling.temperature = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(code({1}, hot), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(
      model->Generate({1}, Greedy(1), absl::InfinitePast(), std::make_shared<Collector>()).code(),
      absl::StatusCode::kDeadlineExceeded);
}

TEST(Scheduler, CapsMaxTokensByTheContext) {
  const auto model = LoadTiny({.context_length = 40});
  const auto sink = Start(*model, Prompt(5, 30), Greedy(std::numeric_limits<int32_t>::max()));
  ASSERT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens.size(), 10u);
  EXPECT_EQ(sink->reason, FinishReason::kLength);
}

TEST(Scheduler, StopsWhenTheClientLeaves) {
  const auto model = LoadTiny();
  auto sink = std::make_shared<Collector>();
  sink->leave_after = 3;
  ASSERT_TRUE(model->Generate(Prompt(6, 4), Greedy(200), absl::InfiniteFuture(), sink).ok());
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(sink->tokens.size(), 3u);
}

TEST(Scheduler, PausesWhileTheSinkIsNotReadyAndGoesOn) {
  const auto model = LoadTiny();
  const std::vector<int32_t> expected = GenerateAlone(*model, Prompt(7, 6), 50);
  auto paused = std::make_shared<Collector>();
  paused->ready = false;
  ASSERT_TRUE(model->Generate(Prompt(7, 6), Greedy(50), absl::InfiniteFuture(), paused).ok());
  EXPECT_EQ(GenerateAlone(*model, Prompt(7, 6), 50), expected);  // others run meanwhile
  EXPECT_TRUE(paused->tokens.empty());
  paused->ready = true;
  ASSERT_TRUE(paused->Wait().ok());
  EXPECT_EQ(paused->tokens, expected);
}

TEST(Scheduler, EndsAPauseThatIsTooLong) {
  const auto model = LoadTiny({.pause_limit = absl::Milliseconds(1)});
  auto sink = std::make_shared<Collector>();
  sink->ready = false;
  ASSERT_TRUE(model->Generate(Prompt(8, 6), Greedy(50), absl::InfiniteFuture(), sink).ok());
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kDeadlineExceeded);
}

// Fills the model's only place with a paused sequence, so that others wait.
std::shared_ptr<Collector> Block(Model& model) {
  auto sink = std::make_shared<Collector>();
  sink->ready = false;
  EXPECT_TRUE(model.Generate({1}, Greedy(5), absl::InfiniteFuture(), sink).ok());
  while (model.activity().running == 0) std::this_thread::yield();
  return sink;
}

TEST(Scheduler, RefusesWhenTheQueueIsFull) {
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

TEST(Scheduler, CountsStepsAndReservedCaches) {
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

TEST(Scheduler, EndsLateAndCancelledRequestsInTheQueue) {
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

TEST(Scheduler, ReservesKvMemoryOrRefuses) {
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

TEST(Scheduler, NeverSamplesFromNan) {
  auto source = RandomDecoder(TinyDecoderConfig(), 11);
  // Finite weights whose products overflow.
  source->SetFloats("model.norm.weight", {48}, std::vector<float>(48, 3e38f));
  const auto model = Model::Load(std::move(source), {.compute = Compute::kExact}).value();
  const auto sink = Start(*model, Prompt(1, 5), Greedy(5));
  EXPECT_FALSE(sink->Wait().ok());
  EXPECT_TRUE(sink->tokens.empty());
  EXPECT_EQ(model->Logits({{1, 2, 3}}).status().code(), absl::StatusCode::kDataLoss);
}

TEST(Scheduler, DrainWaitsForRunningAndRefusesNew) {
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

TEST(Scheduler, DrainEndsTheRestAtItsDeadline) {
  const auto model = LoadTiny({.max_sequences = 1});
  const auto blocker = Block(*model);
  const auto waiting = Start(*model, {2}, Greedy(1));
  model->Drain(absl::Now());
  EXPECT_EQ(blocker->Wait().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(waiting->Wait().code(), absl::StatusCode::kUnavailable);
}

TEST(Scheduler, UnloadWhileStreamingEndsTheStream) {
  auto model = LoadTiny();
  const auto sink = Start(*model, Prompt(1, 3), Greedy(250));
  sink->WaitForTokens(1);
  model.reset();
  const absl::Status status = sink->Wait();
  EXPECT_TRUE(status.ok() || status.code() == absl::StatusCode::kUnavailable) << status;
}

TEST(Scheduler, AStreamMayHoldTheLastHandle) {
  auto model = LoadTiny();
  auto sink = std::make_shared<Collector>();
  sink->model = model;
  ASSERT_TRUE(model->Generate(Prompt(1, 3), Greedy(50), absl::InfiniteFuture(), sink).ok());
  model.reset();  // the scheduler thread drops the last one
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens.size(), 50u);
}

TEST(Scheduler, LogitsOfABatchEqualThoseOfEachSequence) {
  const auto model = LoadTiny();
  const std::vector<std::vector<int32_t>> batch = {Prompt(1, 3), Prompt(2, 129), Prompt(3, 1)};
  std::vector<float> expected;
  for (const auto& tokens : batch) {
    const std::vector<float> logits = model->Logits({tokens}).value();
    expected.insert(expected.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(model->Logits(batch).value(), expected);
  EXPECT_EQ(model->Logits({{}}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->Encode({{1}}, false).status().code(), absl::StatusCode::kUnimplemented);
}

TEST(Scheduler, StopsWorkWhoseCallerHasGone) {
  const auto model = LoadTiny();
  const auto gone = [] { return true; };
  EXPECT_EQ(model->Logits({Prompt(1, 9)}, gone).status().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(model->Score(Prompt(1, 9), 1, gone).status().code(), absl::StatusCode::kCancelled);
  // Many sequences take several slices; the caller goes after the first.
  int looks = 0;
  const std::vector<std::vector<int32_t>> many(200, Prompt(2, 60));
  EXPECT_EQ(model->Logits(many, [&] { return ++looks > 1; }).status().code(),
            absl::StatusCode::kCancelled);
  EXPECT_EQ(looks, 2);
  EXPECT_TRUE(model->Logits({Prompt(1, 9)}, [] { return false; }).ok());
  const auto encoder = Model::Load(RandomEncoder(TinyEncoderConfig(), 5), {}).value();
  EXPECT_EQ(encoder->Encode({{1, 2}}, true, gone).status().code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(encoder->Encode({{1, 2}}, true).ok());
}

TEST(Scheduler, ServesManyClientsAtOnce) {
  const auto model = LoadTiny({.max_sequences = 4}, /*tokenizer=*/true);
  const std::vector<int32_t> expected = GenerateAlone(*model, Prompt(1, 20), 20);
  const std::vector<float> logits = model->Logits({Prompt(2, 40)}).value();
  std::vector<std::thread> clients;
  for (int client = 0; client < 8; ++client) {
    clients.emplace_back([&, client] {
      for (int round = 0; round < 6; ++round) {
        switch ((client + round) % 4) {
          case 0:
            EXPECT_EQ(GenerateAlone(*model, Prompt(1, 20), 20), expected);
            break;
          case 1:
            EXPECT_EQ(model->Logits({Prompt(2, 40)}).value(), logits);
            break;
          case 2: {
            auto leaver = std::make_shared<Collector>();
            leaver->leave_after = round;
            ASSERT_TRUE(
                model->Generate(Prompt(3, 9), Greedy(30), absl::InfiniteFuture(), leaver).ok());
            leaver->Wait().IgnoreError();
            break;
          }
          default: {
            const auto late =
                Start(*model, Prompt(4, 200), Greedy(50), absl::Now() + absl::Milliseconds(3));
            late->Wait().IgnoreError();
            model->memory();
          }
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  model->Drain(absl::InfiniteFuture());
  EXPECT_EQ(model->activity().running, 0);
}

TEST(EncoderModel, EncodesBatchesOfManyClients) {
  const auto model = Model::Load(RandomEncoder(TinyEncoderConfig(), 5), {}).value();
  EXPECT_TRUE(model->is_encoder());
  const std::vector<std::vector<int32_t>> sequences = {{1, 2, 3}, {4}, std::vector<int32_t>(64, 7)};
  const auto expected = model->Encode(sequences, true).value();
  ASSERT_EQ(expected.size(), 3u);
  EXPECT_EQ(expected[0].last_hidden_state.size(), 3u * 32);
  EXPECT_EQ(expected[2].sentence_embedding.size(), 32u);
  std::vector<std::thread> clients;
  for (int i = 0; i < 6; ++i) {
    clients.emplace_back([&] {
      const auto found = model->Encode(sequences, true);
      ASSERT_TRUE(found.ok());
      for (size_t s = 0; s < 3; ++s) {
        EXPECT_EQ((*found)[s].sentence_embedding, expected[s].sentence_embedding);
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(model->Encode({{}}, true).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(model->Encode({std::vector<int32_t>(65, 1)}, true).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(model->Logits({{1}}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(model->Encode({}, true).value().size(), 0u);
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

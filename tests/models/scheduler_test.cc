// Generation through the scheduler: what every client gets, alone and among others.
#include <cstring>
#include <limits>
#include <thread>

#include "core/parallel.h"
#include "generation_fixture.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quantd {
namespace {

// One compute thread: these tests are about the scheduler.
const bool kOneThread = [] {
  SetComputeThreads(1);
  return true;
}();

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

}  // namespace
}  // namespace quantd

// What tests of the scheduler share: a sink that collects, a tiny model, prompts.
#ifndef QUANTD_TESTS_MODELS_GENERATION_FIXTURE_H_
#define QUANTD_TESTS_MODELS_GENERATION_FIXTURE_H_

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory_source.h"
#include "models/model.h"

namespace quantd {

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

inline std::shared_ptr<Model> LoadTiny(const LoadOptions& options = {}, bool tokenizer = false) {
  auto source = RandomDecoder(TinyDecoderConfig(), 11);
  if (tokenizer) source->SetSideFile("tokenizer.json", WordTokenizerJson(97));
  auto model = Model::Load(std::move(source), options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(model).value();
}

inline std::vector<int32_t> Prompt(int seed, int length) {
  std::vector<int32_t> ids(length);
  for (int i = 0; i < length; ++i) ids[i] = (seed * 13 + i * 29) % 97;
  return ids;
}

inline GenerationOptions Greedy(int max_tokens) {
  GenerationOptions options;
  options.max_tokens = max_tokens;
  options.ignore_eos = true;
  return options;
}

inline std::shared_ptr<Collector> Start(Model& model, std::vector<int32_t> prompt,
                                        const GenerationOptions& options,
                                        absl::Time deadline = absl::InfiniteFuture()) {
  auto sink = std::make_shared<Collector>();
  const absl::Status status = model.Generate(std::move(prompt), options, deadline, sink);
  EXPECT_TRUE(status.ok()) << status;
  return sink;
}

inline std::vector<int32_t> GenerateAlone(Model& model, const std::vector<int32_t>& prompt,
                                          int count) {
  const auto sink = Start(model, prompt, Greedy(count));
  EXPECT_TRUE(sink->Wait().ok());
  return sink->tokens;
}

// Fills the model's only place with a paused sequence, so that others wait.
inline std::shared_ptr<Collector> Block(Model& model) {
  auto sink = std::make_shared<Collector>();
  sink->ready = false;
  EXPECT_TRUE(model.Generate({1}, Greedy(5), absl::InfiniteFuture(), sink).ok());
  while (model.activity().running == 0) std::this_thread::yield();
  return sink;
}

}  // namespace quantd

#endif  // QUANTD_TESTS_MODELS_GENERATION_FIXTURE_H_

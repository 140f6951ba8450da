#include "models/sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "models/sampling/stop_matcher.h"

namespace quantd {
namespace {

using ::testing::ElementsAre;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> Ramp(size_t size) {
  std::vector<float> logits(size);
  for (size_t i = 0; i < size; ++i) {
    logits[i] = static_cast<float>((i * 7919) % size) * 8.0f / static_cast<float>(size) - 4;
  }
  return logits;
}

std::map<int32_t, int> Histogram(const SamplingOptions& options, std::vector<float> logits,
                                 int draws) {
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) counts[sampler.Sample(logits).value().id]++;
  return counts;
}

TEST(SamplerTest, GreedyTakesTheFirstMaximum) {
  Sampler sampler({});
  const auto token = sampler.Sample(std::vector<float>{1, 3, 3, -kInf});
  ASSERT_TRUE(token.ok());
  EXPECT_EQ(token->id, 1);
  EXPECT_NEAR(token->logprob, 3 - std::log(std::exp(1.0) + 2 * std::exp(3.0)), 1e-6);
}

TEST(SamplerTest, LogSumExpEqualsDoubles) {
  for (const size_t size : {1, 31, 33, 129, 513, 49152}) {
    const std::vector<float> logits = Ramp(size);
    double sum = 0, max = *std::max_element(logits.begin(), logits.end());
    for (const float logit : logits) sum += std::exp(double{logit});
    EXPECT_NEAR(LogSumExp(logits, static_cast<float>(max)), std::log(sum), 2e-6) << size;
  }
}

TEST(SamplerTest, NeverSamplesFromBrokenLogits) {
  Sampler sampler({.temperature = 1, .seed = 1});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInf}) {
    for (const size_t at : {0, 1, 2}) {
      std::vector<float> logits = {1, 2, 3};
      logits[at] = bad;
      EXPECT_EQ(sampler.Sample(logits).status().code(), absl::StatusCode::kInvalidArgument);
    }
  }
  EXPECT_FALSE(sampler.Sample(std::vector<float>{-kInf, -kInf}).ok());
}

TEST(SamplerTest, SameSeedSameTokens) {
  const std::vector<float> logits = Ramp(129);
  for (const SamplingOptions& options :
       {SamplingOptions{.temperature = 1, .seed = 7},
        SamplingOptions{.temperature = 0.7f, .top_k = 20, .top_p = 0.9f, .seed = 7}}) {
    Sampler a(options), b(options);
    for (int i = 0; i < 100; ++i) EXPECT_EQ(a.Sample(logits)->id, b.Sample(logits)->id);
  }
}

// The first numbers of O'Neill's pcg32 with state and increment as here, from the algorithm's text.
TEST(SamplerTest, RandomNumbersAreUniform) {
  Pcg32 random(42);
  double mean = 0;
  for (int i = 0; i < 10000; ++i) {
    const double unit = random.NextUnit();
    ASSERT_GE(unit, 0);
    ASSERT_LT(unit, 1);
    mean += unit / 10000;
  }
  EXPECT_NEAR(mean, 0.5, 0.01);
}

TEST(SamplerTest, FrequenciesFollowTheTemperature) {
  const auto counts = Histogram({.temperature = 2, .seed = 3}, {0, 2, 4}, 30000);
  const double z = 1 + std::exp(1.0) + std::exp(2.0);
  EXPECT_NEAR(counts.at(0) / 30000.0, 1 / z, 0.01);
  EXPECT_NEAR(counts.at(2) / 30000.0, std::exp(2.0) / z, 0.01);
}

TEST(SamplerTest, FiltersKeepWhatTheySay) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.25f), std::log(0.15f),
                                     std::log(0.1f)};
  const auto kept = [&](SamplingOptions options) {
    options.temperature = 1;
    options.seed = 5;
    std::vector<int32_t> ids;
    for (const auto& [id, count] : Histogram(options, logits, 2000)) ids.push_back(id);
    return ids;
  };
  EXPECT_THAT(kept({.top_k = 2}), ElementsAre(0, 1));
  EXPECT_THAT(kept({.top_p = 0.7f}), ElementsAre(0, 1));
  EXPECT_THAT(kept({.top_p = 0.76f}), ElementsAre(0, 1, 2));
  EXPECT_THAT(kept({.top_p = 0.01f}), ElementsAre(0));
  EXPECT_THAT(kept({.min_p = 0.4f}), ElementsAre(0, 1));
  EXPECT_THAT(kept({.top_p = 0.95f, .min_p = 0.29f}), ElementsAre(0, 1, 2));
  // Top-p counts what top-k left: 0.5 of 0.75.
  EXPECT_THAT(kept({.top_k = 2, .top_p = 0.6f}), ElementsAre(0));
}

TEST(SamplerTest, TopPOverManyTokens) {
  const std::vector<float> logits(1000, 0.5f);
  const auto counts = Histogram({.temperature = 1, .top_p = 0.5f, .seed = 1}, logits, 5000);
  for (const auto& [id, count] : counts) EXPECT_LE(id, 500);
  EXPECT_GT(counts.size(), 490u);
}

TEST(SamplerTest, TinyTemperatureIsGreedy) {
  const auto counts = Histogram({.temperature = 1e-45f, .top_k = 3, .seed = 1}, {1, 2, 1.5f}, 50);
  EXPECT_EQ(counts.at(1), 50);
}

TEST(SamplerTest, RepetitionPenalty) {
  Sampler sampler({.repetition_penalty = 2});
  sampler.Observe(std::vector<int32_t>{1, 1, -5, 1 << 30});
  EXPECT_EQ(sampler.Sample(std::vector<float>{2, 3})->id, 0);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-3, -2})->id, 0);
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3})->id, 1);
}

TEST(SamplerTest, OptionsAreChecked) {
  EXPECT_TRUE(ValidateSamplingOptions({}).ok());
  const float nan = std::nanf("");
  for (const SamplingOptions& bad :
       {SamplingOptions{.temperature = -1}, SamplingOptions{.temperature = nan},
        SamplingOptions{.temperature = kInf}, SamplingOptions{.top_k = -1},
        SamplingOptions{.top_p = 7}, SamplingOptions{.top_p = 0}, SamplingOptions{.top_p = nan},
        SamplingOptions{.min_p = 1}, SamplingOptions{.repetition_penalty = 0},
        SamplingOptions{.repetition_penalty = nan}}) {
    EXPECT_EQ(ValidateSamplingOptions(bad).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(StopMatcherTest, HoldsBackWhatMayBeAStop) {
  StopMatcher matcher({"\n\nUser:", "END"});
  EXPECT_EQ(matcher.Push("Hello\n"), "Hello");
  EXPECT_EQ(matcher.Push("\nUs"), "");
  EXPECT_EQ(matcher.Push("age EN"), "\n\nUsage ");
  EXPECT_EQ(matcher.Push("E"), "EN");
  EXPECT_EQ(matcher.Push("ND tail"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, EarliestMatchWins) {
  StopMatcher matcher({"long stop", "g s"});
  EXPECT_EQ(matcher.Push("a long stop"), "a ");
  EXPECT_TRUE(matcher.stopped());
}

TEST(StopMatcherTest, FlushGivesTheRest) {
  StopMatcher matcher({"<|end|>"});
  EXPECT_EQ(matcher.Push("x<|en"), "x");
  EXPECT_EQ(matcher.Flush(), "<|en");
  EXPECT_FALSE(matcher.stopped());
}

TEST(StopMatcherTest, StopsAreChecked) {
  EXPECT_TRUE(ValidateStopStrings({"a"}).ok());
  EXPECT_FALSE(ValidateStopStrings({""}).ok());
  EXPECT_FALSE(ValidateStopStrings({std::string(2000, 'a')}).ok());
  EXPECT_FALSE(ValidateStopStrings(std::vector<std::string>(100000, "a")).ok());
}

}  // namespace
}  // namespace quantd

#include "models/evaluation.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "memory_source.h"
#include "models/tokenizers/tokenizer.h"

namespace quantd {
namespace {

std::shared_ptr<Model> LoadTiny(uint32_t seed) {
  auto source = RandomDecoder(TinyDecoderConfig(), seed);
  source->SetSideFile("tokenizer.json", WordTokenizerJson(97));
  return Model::Load(std::move(source), {.compute = Compute::kExact}).value();
}

std::string Text(int words) {
  std::string text;
  for (int i = 0; i < words; ++i) absl::StrAppend(&text, "t", i * i * 7 % 97, " ");
  return text;
}

// The definition, from all logits at once.
TEST(Evaluate, GivesThePerplexityOfTheSecondHalves) {
  const auto model = LoadTiny(1), reference = LoadTiny(2);
  const std::string text = Text(70);
  const std::vector<int32_t> ids = model->tokenizer()->Encode(text).value();
  double nll = 0, reference_nll = 0, kl = 0, same = 0;
  int count = 0;
  for (int window = 0; window < 2; ++window) {
    const std::vector<int32_t> tokens(ids.begin() + window * 32, ids.begin() + window * 32 + 32);
    const std::vector<float> q = model->Logits({tokens}).value();
    const std::vector<float> p = reference->Logits({tokens}).value();
    for (int position = 16; position < 31; ++position, ++count) {
      double q_sum = 0, p_sum = 0;
      int q_top = 0, p_top = 0;
      const float* q_row = q.data() + position * 97;
      const float* p_row = p.data() + position * 97;
      for (int v = 0; v < 97; ++v) {
        q_sum += std::exp(static_cast<double>(q_row[v]));
        p_sum += std::exp(static_cast<double>(p_row[v]));
        if (q_row[v] > q_row[q_top]) q_top = v;
        if (p_row[v] > p_row[p_top]) p_top = v;
      }
      nll -= q_row[tokens[position + 1]] - std::log(q_sum);
      reference_nll -= p_row[tokens[position + 1]] - std::log(p_sum);
      for (int v = 0; v < 97; ++v) {
        const double log_p = p_row[v] - std::log(p_sum);
        kl += std::exp(log_p) * (log_p - (q_row[v] - std::log(q_sum)));
      }
      same += q_top == p_top;
    }
  }
  int64_t progress = 0;
  EvaluationOptions options;
  options.context_length = 32;
  options.on_progress = [&](int64_t done, int64_t total) {
    EXPECT_EQ(total, 64);
    progress = done;
  };
  const EvaluationResult result = Evaluate(*model, reference.get(), text, options).value();
  EXPECT_EQ(progress, 64);
  EXPECT_EQ(result.scored_tokens, count);
  EXPECT_NEAR(result.perplexity / std::exp(nll / count), 1, 1e-5);
  EXPECT_NEAR(*result.reference_perplexity / std::exp(reference_nll / count), 1, 1e-5);
  EXPECT_NEAR(*result.mean_kl_divergence, kl / count, 1e-4);
  EXPECT_NEAR(*result.top1_agreement, same / count, 1e-9);
  EXPECT_GT(result.perplexity_error, 0);
}

TEST(Evaluate, FindsNoDistanceToItself) {
  const auto model = LoadTiny(1), same = LoadTiny(1);
  EvaluationOptions options;
  options.context_length = 16;
  const EvaluationResult result = Evaluate(*model, same.get(), Text(40), options).value();
  EXPECT_NEAR(*result.mean_kl_divergence, 0, 1e-6);
  EXPECT_EQ(*result.top1_agreement, 1);
}

TEST(Evaluate, RefusesWhatCannotBeMeasured) {
  const auto model = LoadTiny(1);
  EvaluationOptions options;
  options.context_length = 64;
  EXPECT_EQ(Evaluate(*model, nullptr, Text(40), options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.context_length = 3;
  EXPECT_EQ(Evaluate(*model, nullptr, Text(40), options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.context_length = 16;
  options.cancelled = [] { return true; };
  EXPECT_EQ(Evaluate(*model, nullptr, Text(40), options).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(Evaluate, ComparesEncodersByCosine) {
  const auto load = [](uint32_t seed) {
    auto source = RandomEncoder(TinyEncoderConfig(), seed);
    source->SetSideFile("tokenizer.json", WordTokenizerJson(53));
    return Model::Load(std::move(source), {.compute = Compute::kExact}).value();
  };
  const auto model = load(1), same = load(1), other = load(2);
  const std::string text = "t1 t2 t3\n\nt4 t5\nt6\n";
  EXPECT_NEAR(*Evaluate(*model, same.get(), text, {}).value().mean_cosine, 1, 1e-6);
  EXPECT_LT(*Evaluate(*model, other.get(), text, {}).value().mean_cosine, 0.9);
  EXPECT_EQ(Evaluate(*model, nullptr, text, {}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(Evaluate, StopsEncodersAtTheLineThatReachesTheLimit) {
  auto source = RandomEncoder(TinyEncoderConfig(), 1);
  source->SetSideFile("tokenizer.json", WordTokenizerJson(53));
  const auto model = Model::Load(std::move(source), {.compute = Compute::kExact}).value();
  const auto tokens = [&](absl::string_view text, int64_t max_tokens) {
    const auto result = Evaluate(*model, model.get(), text, {.max_tokens = max_tokens}).value();
    EXPECT_NEAR(*result.mean_cosine, 1, 1e-6);
    return result.scored_tokens;
  };
  const std::string text = "t1 t2 t3\n\nt4 t5\nt6\n";
  const int64_t first = tokens("t1 t2 t3", 0), second = tokens("t4 t5", 0);
  EXPECT_EQ(tokens(text, 1), first);
  EXPECT_EQ(tokens(text, first), first);
  EXPECT_EQ(tokens(text, first + 1), first + second);
  EXPECT_EQ(tokens(text, 1000), tokens(text, 0));
}

}  // namespace
}  // namespace quantd

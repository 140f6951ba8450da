#include "models/importance.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "memory_source.h"

namespace quantd {
namespace {

std::string Words(const std::vector<int>& ids) {
  std::string text;
  for (const int id : ids) absl::StrAppend(&text, "t", id, " ");
  return text;
}

std::vector<int> Sequence(int count) {
  std::vector<int> ids;
  for (int i = 0; i < count; ++i) ids.push_back(i * i * 7 % 97);
  return ids;
}

std::unique_ptr<MemorySource> Tiny() {
  auto source = RandomDecoder(TinyDecoderConfig(), 5);
  source->SetSideFile("tokenizer.json", WordTokenizerJson(97));
  return source;
}

// The first layer's input is the embedding after the norm: known without running the model.
TEST(MeasureImportance, SumsTheSquaresOfNormalizedInputs) {
  const std::vector<int> ids = Sequence(40);
  auto source = Tiny();
  const ModelConfig config = source->config();
  const std::vector<float> table = source->Floats("model.embed_tokens.weight");
  const std::vector<float> norm = source->Floats("model.layers.0.input_layernorm.weight");
  const int64_t hidden = config.hidden_size;
  std::vector<double> expected(static_cast<size_t>(hidden));
  for (const int id : ids) {
    const float* row = table.data() + id * hidden;
    double squares = 0;
    for (int64_t c = 0; c < hidden; ++c) squares += static_cast<double>(row[c]) * row[c];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(hidden) + config.norm_eps);
    for (int64_t c = 0; c < hidden; ++c) {
      const double x = row[c] * scale * norm[c];
      expected[c] += x * x;
    }
  }
  ImportanceOptions options;
  options.chunk_tokens = 20;
  int64_t done = 0;
  options.on_progress = [&](int64_t chunk, int64_t total) {
    EXPECT_EQ(total, 2);
    done = chunk;
  };
  const auto matrix = MeasureImportance(std::move(source), Words(ids), options);
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(done, 2);
  EXPECT_EQ(matrix->chunks, 2);
  EXPECT_EQ(matrix->chunk_size, 20);
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"}) {
    const auto& entry = matrix->entries().at(name);
    EXPECT_EQ(entry.count, 40);
    ASSERT_EQ(entry.sums.size(), expected.size());
    // float32 norms against doubles.
    for (size_t c = 0; c < expected.size(); ++c) {
      EXPECT_NEAR(entry.sums[c], expected[c], 1e-5 * expected[c] + 1e-9) << name << " " << c;
    }
  }
}

TEST(MeasureImportance, HasTheEntriesThatPlanningExpects) {
  auto source = Tiny();
  const ImportanceMatrix expected = UniformImportance(*source);
  EXPECT_EQ(expected.entries().size(), 7u * source->config().num_hidden_layers);
  const auto matrix = MeasureImportance(std::move(source), Words(Sequence(30)), {});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  ASSERT_EQ(matrix->entries().size(), expected.entries().size());
  for (const auto& [name, entry] : matrix->entries()) {
    EXPECT_EQ(entry.sums.size(), expected.Find(name).size()) << name;
    for (const float sum : entry.sums) ASSERT_TRUE(std::isfinite(sum) && sum >= 0) << name;
  }
}

// Every chunk starts anew: the same words twice give twice the sums.
TEST(MeasureImportance, TakesChunksAsContextsOfTheirOwn) {
  const std::vector<int> once = Sequence(16);
  std::vector<int> twice = once;
  twice.insert(twice.end(), once.begin(), once.end());
  ImportanceOptions options;
  options.chunk_tokens = 16;
  const auto one = MeasureImportance(Tiny(), Words(once), options);
  const auto two = MeasureImportance(Tiny(), Words(twice), options);
  ASSERT_TRUE(one.ok() && two.ok());
  for (const auto& [name, entry] : one->entries()) {
    for (size_t c = 0; c < entry.sums.size(); ++c) {
      EXPECT_FLOAT_EQ(2 * entry.sums[c], two->entries().at(name).sums[c]) << name;
    }
  }
}

TEST(MeasureImportance, ReadsEncodersLineByLine) {
  auto source = RandomEncoder(TinyEncoderConfig(), 3);
  source->SetSideFile("tokenizer.json", WordTokenizerJson(53));
  const size_t expected = UniformImportance(*source).entries().size();
  const auto matrix = MeasureImportance(std::move(source), "t1 t2 t3\n\nt4 t5\n", {});
  ASSERT_TRUE(matrix.ok()) << matrix.status();
  EXPECT_EQ(matrix->chunks, 2);
  EXPECT_EQ(matrix->entries().size(), expected);
  EXPECT_EQ(matrix->entries().at("blk.0.attn_q.weight").count, 5);
}

TEST(MeasureImportance, RefusesWhatCannotBeMeasured) {
  EXPECT_EQ(MeasureImportance(Tiny(), " ", {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MeasureImportance(RandomDecoder(TinyDecoderConfig(), 5), "t1", {}).status().code(),
            absl::StatusCode::kFailedPrecondition);
  ImportanceOptions options;
  options.cancelled = [] { return true; };
  EXPECT_EQ(MeasureImportance(Tiny(), "t1 t2", options).status().code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace quantd

// Statistics of a linear's inputs, and the door for single matrices that takes them.
#include "quantizers/input_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "core/parallel.h"
#include "quantizers/method.h"
#include "quantizers/pipeline.h"

namespace quantd {
namespace {

constexpr InputNeeds kAll = {
    .importance = true, .mean_magnitude = true, .range = true, .gram = true, .sample_rows = 7};

std::vector<float> Inputs(int64_t tokens, int64_t cols, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<size_t>(tokens * cols));
  for (size_t i = 0; i < values.size(); ++i) {
    // Channels of very different sizes.
    values[i] = static_cast<float>(static_cast<int>(random() % 2001) - 1000) * 1e-3f *
                static_cast<float>(1 + 10 * (i % static_cast<size_t>(cols) % 5));
  }
  return values;
}

InputStatistics Collect(const std::vector<float>& x, int64_t cols, const InputNeeds& needs,
                        const std::vector<int64_t>& cuts = {}) {
  const int64_t tokens = static_cast<int64_t>(x.size()) / cols;
  InputStatistics statistics(cols, needs, tokens);
  int64_t done = 0;
  for (size_t i = 0; done < tokens; ++i) {
    const int64_t count = cuts.empty() ? tokens : std::min(cuts[i % cuts.size()], tokens - done);
    EXPECT_TRUE(statistics.Add({x.data() + done * cols, static_cast<size_t>(count * cols)}).ok());
    done += count;
  }
  EXPECT_TRUE(statistics.Finish().ok());
  return statistics;
}

TEST(InputStatistics, AgreeWithTheirDefinitions) {
  constexpr int64_t kCols = 131, kTokens = 600;
  const std::vector<float> x = Inputs(kTokens, kCols);
  const InputStatistics statistics = Collect(x, kCols, kAll);
  const InputStats stats = statistics.View();
  ASSERT_EQ(stats.tokens, kTokens);
  ASSERT_EQ(stats.gram.size(), static_cast<size_t>(kCols * kCols));
  for (int64_t i = 0; i < kCols; ++i) {
    double magnitude = 0;
    float least = x[i], greatest = x[i];
    for (int64_t t = 0; t < kTokens; ++t) {
      magnitude += std::fabs(x[t * kCols + i]);
      least = std::min(least, x[t * kCols + i]);
      greatest = std::max(greatest, x[t * kCols + i]);
    }
    EXPECT_NEAR(stats.mean_magnitude[i], magnitude / kTokens, 1e-5 * magnitude / kTokens);
    EXPECT_EQ(stats.minimum[i], least);
    EXPECT_EQ(stats.maximum[i], greatest);
    for (int64_t j = 0; j < kCols; ++j) {
      double product = 0, size = 0;
      for (int64_t t = 0; t < kTokens; ++t) {
        const double term = static_cast<double>(x[t * kCols + i]) * x[t * kCols + j];
        product += term;
        size += std::fabs(term);
      }
      ASSERT_NEAR(stats.gram[i * kCols + j], product, 1e-5 * size) << i << " " << j;
    }
    const double square = stats.gram[i * kCols + i] / kTokens;
    EXPECT_NEAR(stats.importance[i], square, 1e-5 * square);
  }
  // Seven tokens of 600: rows 0, 85, 171, ...
  ASSERT_EQ(stats.samples.size(), static_cast<size_t>(7 * kCols));
  for (int64_t s = 0; s < 7; ++s) {
    EXPECT_EQ(stats.samples[s * kCols + 5], x[s * kTokens / 7 * kCols + 5]) << s;
  }
}

TEST(InputStatistics, DoNotDependOnCutsOrThreads) {
  constexpr int64_t kCols = 100;
  const std::vector<float> x = Inputs(1000, kCols);
  SetComputeThreads(1);
  const InputStatistics whole = Collect(x, kCols, kAll);
  SetComputeThreads(3);
  const InputStatistics pieces = Collect(x, kCols, kAll, {1, 300, 7, 256});
  SetComputeThreads(0);
  const InputStats a = whole.View(), b = pieces.View();
  const auto same = [](std::span<const float> left, std::span<const float> right) {
    return left.size() == right.size() && !left.empty() &&
           std::memcmp(left.data(), right.data(), left.size_bytes()) == 0;
  };
  EXPECT_TRUE(same(a.gram, b.gram));
  EXPECT_TRUE(same(a.importance, b.importance));
  EXPECT_TRUE(same(a.mean_magnitude, b.mean_magnitude));
  EXPECT_TRUE(same(a.minimum, b.minimum));
  EXPECT_TRUE(same(a.maximum, b.maximum));
  EXPECT_TRUE(same(a.samples, b.samples));
}

TEST(InputStatistics, GiveWhatWasAskedFor) {
  const std::vector<float> x = Inputs(5, 8);
  const InputStatistics few = Collect(x, 8, {.sample_rows = 100});
  EXPECT_TRUE(few.View().gram.empty());
  EXPECT_TRUE(few.View().importance.empty());
  EXPECT_EQ(std::vector<float>(few.View().samples.begin(), few.View().samples.end()), x);
}

TEST(InputStatistics, NameTokenAndChannelOfANaN) {
  std::vector<float> x = Inputs(20, 8);
  InputStatistics statistics(8, kAll, 20);
  ASSERT_TRUE(statistics.Add({x.data(), 80}).ok());
  x[8 * 13 + 6] = std::numeric_limits<float>::quiet_NaN();
  const absl::Status status = statistics.Add({x.data() + 80, 80});
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "the input of token 13, channel 6, is nan");
  InputStatistics large(2, {.gram = true}, 1);
  ASSERT_TRUE(large.Add(std::vector<float>{1.0f, 1e30f}).ok());
  EXPECT_TRUE(absl::IsInvalidArgument(large.Finish()));
}

class MatrixDoor : public testing::Test {
 protected:
  static constexpr int64_t kRows = 16, kCols = 256, kTokens = 40;

  absl::StatusOr<QuantizedMatrix> Quantize(const std::string& type, const Tensor* calibration) {
    const auto recipe = MakeRecipe("gguf", {{"type", type}});
    if (!recipe.ok()) return recipe.status();
    const Tensor weight = Floats({kRows, kCols}, Inputs(kRows, kCols, 2));
    const TensorView view = calibration == nullptr ? TensorView() : calibration->view();
    return QuantizeMatrix(weight, calibration == nullptr ? nullptr : &view, **recipe);
  }

  static Tensor Floats(Shape shape, const std::vector<float>& values) {
    return TensorOf<float>(DType::kF32, std::move(shape), std::span<const float>(values));
  }
};

TEST_F(MatrixDoor, FitsTheWeightToTheInputs) {
  // Types that need an importance, and take one gladly.
  const Tensor inputs = Floats({4, kTokens / 4, kCols}, Inputs(kTokens, kCols));
  const Tensor even = Floats({1, kCols}, std::vector<float>(kCols, 1.0f));
  for (const std::string type : {"IQ2_XXS", "Q4_K_S"}) {
    const auto fitted = Quantize(type, &inputs);
    ASSERT_TRUE(fitted.ok()) << fitted.status();
    const auto plain = Quantize(type, &even);
    ASSERT_TRUE(plain.ok()) << plain.status();
    EXPECT_NE(fitted->tensors[0].tensor.bytes, plain->tensors[0].tensor.bytes) << type;
    EXPECT_EQ(fitted->quantization_config, plain->quantization_config);
  }
  EXPECT_TRUE(Quantize("Q4_K_S", nullptr).ok());
  // Data-free types pass over the inputs.
  EXPECT_EQ(Quantize("Q8_0", &inputs)->tensors[0].tensor.bytes,
            Quantize("Q8_0", nullptr)->tensors[0].tensor.bytes);
}

TEST_F(MatrixDoor, RefusesInputsThatDoNotFit) {
  const auto refused = [this](const Tensor* calibration, absl::string_view part) {
    const absl::Status status = Quantize("IQ2_XXS", calibration).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  };
  refused(nullptr, "`calibration` [tokens, 256]");
  const Tensor narrow = Floats({2, kCols / 2}, Inputs(2, kCols / 2));
  refused(&narrow, "[tokens, 256], found F32 [2, 128]");
  const Tensor none = Floats({0, kCols}, {});
  refused(&none, "[0, 256]");
  const Tensor integers = MakeTensor(DType::kI32, {2, kCols});
  refused(&integers, "found I32");
  std::vector<float> values = Inputs(3, kCols);
  values[kCols + 9] = -std::numeric_limits<float>::infinity();
  const Tensor infinite = Floats({3, kCols}, values);
  refused(&infinite, "token 1, channel 9");
}

}  // namespace
}  // namespace quantd

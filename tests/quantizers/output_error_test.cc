// Errors of a matrix's outputs, told slice by slice.
#include "quantizers/output_error.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/random_floats.h"

namespace quantd {
namespace {

// Several slices, the last of them short.
constexpr int64_t kRows = 2500, kCols = 2048, kTokens = 3;
constexpr size_t kGroup = 128;

// A matrix with inputs, rounded to the nearest of 15 steps in groups of 128.
struct Case {
  std::vector<float> values = RandomFloats(kRows * kCols, 1),
                     inputs = RandomFloats(kTokens * kCols, 2);
  Tensor weight = TensorOf<float>(DType::kF32, {kRows, kCols}, std::span<const float>(values));
  QuantizedTensor quantized;

  Case() {
    quantized.rows = kRows;
    quantized.cols = kCols;
    quantized.grid = UniformGrid(4, /*is_signed=*/true);
    quantized.block.cols = kGroup;
    for (size_t first = 0; first < values.size(); first += kGroup) {
      float largest = 0;
      for (size_t i = first; i < first + kGroup; ++i) {
        largest = std::max(largest, std::fabs(values[i]));
      }
      const float scale = largest / 7;
      quantized.scale.push_back(scale);
      for (size_t i = first; i < first + kGroup; ++i) {
        quantized.codes.push_back(static_cast<uint8_t>(std::lround(values[i] / scale) + 8));
      }
    }
  }
};

// By the definition, in double.
double Expected(const Case& c, const std::vector<float>& approximation) {
  double energy = 0, error = 0;
  for (int64_t row = 0; row < kRows; ++row) {
    for (int64_t t = 0; t < kTokens; ++t) {
      double exact = 0, difference = 0;
      for (int64_t i = 0; i < kCols; ++i) {
        const double x = c.inputs[static_cast<size_t>(t * kCols + i)];
        const auto at = static_cast<size_t>(row * kCols + i);
        exact += x * c.values[at];
        difference += x * (static_cast<double>(approximation[at]) - c.values[at]);
      }
      energy += exact * exact;
      error += difference * difference;
    }
  }
  return std::sqrt(error / energy);
}

TEST(OutputErrorTest, SumsAllSlices) {
  Case c;
  QuantizedTensor& quantized = c.quantized;
  const double rounded = Expected(c, Dequantize(quantized));
  auto errors = OutputErrorsOf(c.weight, quantized, c.inputs);
  ASSERT_TRUE(errors.ok()) << errors.status();
  EXPECT_NEAR(errors->quantized, rounded, 1e-5 * rounded);  // products are float32
  // Weights half way between two steps go to either.
  EXPECT_NEAR(errors->rounded, rounded, 1e-4 * rounded);
  // Codes of the last rows only: what is rounded anew stays.
  for (size_t i = quantized.codes.size() - 4 * kCols; i < quantized.codes.size(); ++i) {
    quantized.codes[i] ^= 1;
  }
  errors = OutputErrorsOf(c.weight, quantized, c.inputs);
  ASSERT_TRUE(errors.ok()) << errors.status();
  const double changed = Expected(c, Dequantize(quantized));
  EXPECT_GT(changed, 1.001 * rounded);
  EXPECT_NEAR(errors->quantized, changed, 1e-5 * changed);
  EXPECT_NEAR(errors->rounded, rounded, 1e-4 * rounded);
  EXPECT_EQ(*OutputError(c.weight, quantized, c.inputs), errors->quantized);
}

TEST(OutputErrorTest, StopsBetweenSlices) {
  const Case c;
  int asked = 0;
  ASSERT_TRUE(OutputErrorsOf(c.weight, c.quantized, c.inputs, [&] {
                ++asked;
                return false;
              }).ok());
  // Two million weights make a slice, with three products each.
  EXPECT_EQ(asked, 9);
  for (const int stop : {1, 5, 9}) {
    int calls = 0;
    const auto errors =
        OutputErrorsOf(c.weight, c.quantized, c.inputs, [&] { return ++calls == stop; });
    EXPECT_TRUE(absl::IsCancelled(errors.status())) << errors.status();
    EXPECT_EQ(calls, stop);
  }
}

TEST(OutputErrorTest, NothingComesOfNoInputs) {
  Case c;
  c.inputs.assign(c.inputs.size(), 0.0f);
  const auto errors = OutputErrorsOf(c.weight, c.quantized, c.inputs);
  ASSERT_TRUE(errors.ok()) << errors.status();
  EXPECT_EQ(errors->quantized, 0);
}

}  // namespace
}  // namespace quantd

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "core/float_types.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/solvers/scale_search.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class SchemeTest : public ::testing::TestWithParam<GoldenType> {};

// Rows of ties, zeros, tiny and heavy-tailed values, with and without importance.
TEST_P(SchemeTest, QuantizesAsGgml) {
  const auto input = ReadGoldenTensors("gguf/linear-input.safetensors");
  const auto golden =
      ReadGoldenTensors(std::string("gguf/linear-") + GetParam().name + "/quantized.safetensors");
  const auto scheme = SchemeForGgmlType(GetParam().type);
  ASSERT_TRUE(scheme.ok()) << scheme.status();
  const std::vector<float> imatrix = FloatsOf(input.at("imatrix"));
  const InputStats stats{imatrix};
  for (const bool importance : {false, true}) {
    const char* name = importance ? "blocks_imatrix" : "blocks";
    if (!golden.contains(name)) continue;
    const auto quantized = (*scheme)->Quantize(input.at("weight"), importance ? &stats : nullptr);
    ASSERT_TRUE(quantized.ok()) << quantized.status();
    EXPECT_TRUE(Validate(*quantized).ok());
    const auto blocks = EncodeGgufBlocks(GetParam().type, *quantized);
    ASSERT_TRUE(blocks.ok()) << blocks.status();
    EXPECT_EQ(*blocks, golden.at(name).bytes) << name;
  }
}

TEST_P(SchemeTest, GivesScaleZeroForZeros) {
  const auto scheme = SchemeForGgmlType(GetParam().type);
  const Tensor zeros = MakeTensor(DType::kF32, {3, 512});
  const std::vector<float> importance(512, 1.0f);
  const InputStats stats{importance};
  const auto quantized = (*scheme)->Quantize(zeros, &stats);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  for (const float value : Dequantize(*quantized)) ASSERT_EQ(value, 0);
}

// Groups of zeros leave the others where they are. (ggml 0.25.3 moves those of IQ3_S that follow
// one to its place.)
TEST_P(SchemeTest, KeepsValuesBehindZerosInPlace) {
  const auto scheme = SchemeForGgmlType(GetParam().type);
  std::vector<float> values(512);
  for (size_t i = 0; i < values.size(); ++i) {
    const bool is_zero = i / 32 % 4 == 1;
    values[i] = is_zero ? 0.0f : (i * i % 7 < 3 ? -1.0f : 1.0f) * (1 + 0.25f * (i % 3));
  }
  const std::vector<float> importance(512, 1.0f);
  const InputStats stats{importance};
  const auto quantized = (*scheme)->Quantize(
      TensorView{DType::kF32, {1, 512}, std::as_bytes(std::span(values))}, &stats);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  const std::vector<float> found = Dequantize(*quantized);
  double error = 0, norm = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    error += std::pow(found[i] - values[i], 2);
    norm += std::pow(values[i], 2);
  }
  // Q1_0, which has no zero, gives 0.27, the next type 0.14; values in other places give 1 and more.
  EXPECT_LT(error / norm, 0.4);
}

// The smallest numbers there are: no inverse scale is finite.
TEST_P(SchemeTest, SurvivesSubnormals) {
  const auto scheme = SchemeForGgmlType(GetParam().type);
  std::vector<float> values(512);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = std::ldexp(static_cast<float>(static_cast<int>(i % 7) - 3), -149);
  }
  const std::vector<float> importance(512, 1.0f);
  const InputStats stats{importance};
  const auto quantized = (*scheme)->Quantize(
      TensorView{DType::kF32, {1, 512}, std::as_bytes(std::span(values))}, &stats);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  EXPECT_TRUE(Validate(*quantized).ok());
  EXPECT_TRUE(EncodeGgufBlocks(GetParam().type, *quantized).ok());
  for (const float value : Dequantize(*quantized)) ASSERT_LT(std::fabs(value), 1e-30f);
}

TEST_P(SchemeTest, ReadsBfloat16AsFloat32) {
  const auto scheme = SchemeForGgmlType(GetParam().type);
  const auto input = ReadGoldenTensors("gguf/linear-input.safetensors");
  const Tensor narrow = ConvertTensor(input.at("weight"), DType::kBF16);
  const Tensor wide = ConvertTensor(narrow, DType::kF32);
  const std::vector<float> importance(narrow.shape[1], 0.5f);
  const InputStats stats{importance};
  const auto a = (*scheme)->Quantize(narrow, &stats);
  const auto b = (*scheme)->Quantize(wide, &stats);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->codes, b->codes);
  EXPECT_EQ(a->scale, b->scale);
}

INSTANTIATE_TEST_SUITE_P(Types, SchemeTest, ::testing::ValuesIn(AllGoldenTypes()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(SchemesTest, RefuseToGuessTheImportance) {
  const Tensor weight = MakeTensor(DType::kF32, {2, 256});
  for (const GgmlType type : {GgmlType::kIQ2_XXS, GgmlType::kIQ2_XS, GgmlType::kIQ1_S}) {
    const auto quantized = (*SchemeForGgmlType(type))->Quantize(weight, nullptr);
    EXPECT_EQ(quantized.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(quantized.status().message(), HasSubstr("importance matrix"));
  }
}

TEST(SchemesTest, RefuseValuesTooLargeForTheScale) {
  std::vector<float> values(256, 1.0f);
  values[40] = 3e38f;
  const TensorView weight{DType::kF32, {1, 256}, std::as_bytes(std::span(values))};
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ8_0, GgmlType::kQ4_K, GgmlType::kQ6_K}) {
    const auto quantized = (*SchemeForGgmlType(type))->Quantize(weight, nullptr);
    EXPECT_EQ(quantized.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(quantized.status().message(), HasSubstr("row 0"));
  }
}

TEST(SchemesTest, CheckShapes) {
  const Scheme* scheme = *SchemeForGgmlType(GgmlType::kQ4_K);
  EXPECT_TRUE(scheme->CheckShape(1, 256).ok());
  EXPECT_TRUE(scheme->CheckShape(129, 768).ok());
  for (const int64_t cols : {1, 31, 33, 129, 255}) {
    EXPECT_EQ(scheme->CheckShape(4, cols).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(SchemesTest, RefuseImportanceOfAnotherLength) {
  const Tensor weight = MakeTensor(DType::kF32, {2, 256});
  const std::vector<float> importance(255, 1.0f);
  const InputStats stats{importance};
  const auto quantized = (*SchemeForGgmlType(GgmlType::kQ4_K))->Quantize(weight, &stats);
  EXPECT_EQ(quantized.status().code(), absl::StatusCode::kInvalidArgument);
}

// Any vector width gives the same bits, for any number of blocks.
TEST(ScaleSearchTest, AllInstructionSetsAgree) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  const ScaleSearch& baseline = *AllScaleSearches()[0];
  for (const int64_t blocks : {1, 3, 16, 33, 129}) {
    std::vector<float> x(blocks * 32), w(blocks * 32);
    for (float& v : x) v = normal(random) * std::exp(normal(random));
    for (float& v : w) v = std::fabs(normal(random));
    for (int i = 0; i < 32; ++i) x[i] = 0;  // an empty block
    const AffineSearch affine = {32, 15, -1, 0.1f, 20, false, ErrorWeight::kRmsPlusMagnitude};
    const AffineSearch weighted = {32, 31, -0.9f, 0.05f, 36, true, ErrorWeight::kGiven};
    const SymmetricSearch symmetric = {16, 32, ErrorWeight::kSquare};
    const auto run = [&](const ScaleSearch& search) {
      std::vector<float> scales(blocks * 8), minima(blocks * 2);
      std::vector<uint8_t> codes(blocks * 32 * 4);
      search.affine(affine, x.data(), nullptr, blocks, scales.data(), minima.data(), codes.data());
      search.affine(weighted, x.data(), w.data(), blocks, &scales[blocks], &minima[blocks],
                    &codes[blocks * 32]);
      search.symmetric(symmetric, x.data(), nullptr, 2 * blocks, &scales[2 * blocks],
                       &codes[blocks * 64]);
      search.descent(4, x.data(), 2 * blocks, &scales[4 * blocks], &codes[blocks * 96]);
      return std::tuple(scales, minima, codes);
    };
    const auto expected = run(baseline);
    for (const ScaleSearch* const* other = AllScaleSearches(); *other != nullptr; ++other) {
      EXPECT_EQ(run(**other), expected) << (*other)->isa << ", " << blocks << " blocks";
    }
  }
}

}  // namespace
}  // namespace quantd

#include "models/parameters.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "memory_source.h"
#include "models/architectures/decoder.h"
#include "models/architectures/rope.h"
#include "models/input_transform.h"

namespace quantd {
namespace {

using testing::AllOf;
using testing::HasSubstr;

absl::Status Check(const MemorySource& source) {
  return CheckParameters(source, DecoderParameters(source.config(), source).value());
}

TEST(CheckParameters, AcceptsAWholeCheckpoint) {
  EXPECT_TRUE(Check(*RandomDecoder(TinyDecoderConfig(), 1)).ok());
}

TEST(CheckParameters, NamesAMissingTensor) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  source->Erase("model.layers.1.mlp.up_proj.weight");
  const absl::Status status = Check(*source);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("model.layers.1.mlp.up_proj.weight"), HasSubstr("[80, 48]")));
}

TEST(CheckParameters, NamesFoundAndExpectedShape) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  source->SetFloats("model.embed_tokens.weight", {96, 48}, std::vector<float>(96 * 48));
  const absl::Status status = Check(*source);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("embed_tokens"), HasSubstr("[96, 48]"), HasSubstr("[97, 48]")));
}

TEST(CheckParameters, RefusesTransposedAndFlatMatrices) {
  for (const Shape& shape : {Shape{48, 80}, Shape{48 * 80}, Shape{0, 48}}) {
    const auto source = RandomDecoder(TinyDecoderConfig(), 1);
    source->SetFloats("model.layers.0.mlp.gate_proj.weight", shape,
                      std::vector<float>(NumElements(shape)));
    EXPECT_EQ(Check(*source).code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CheckParameters, RefusesIntegerWeights) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  source->Set("model.norm.weight", MakeTensor(DType::kI64, {48}));
  const absl::Status status = Check(*source);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("model.norm"), HasSubstr("I64")));
}

TEST(CheckParameters, RefusesWhatTheArchitectureLacks) {
  for (const char* name : {"model.layers.3.mlp.up_proj.weight",  // a layer too many
                           "model.layers.0.self_attn.q_norm.weight"}) {
    const auto source = RandomDecoder(TinyDecoderConfig(), 1);
    source->SetFloats(name, {1}, {1});
    const absl::Status status = Check(*source);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
}

TEST(CheckParameters, IgnoresBuffersOfOldCheckpoints) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  source->SetFloats("model.layers.0.self_attn.rotary_emb.inv_freq", {8}, std::vector<float>(8));
  EXPECT_TRUE(Check(*source).ok());
}

TEST(CheckParameters, IgnoresScalesOfAQuantizedCache) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  source->SetFloats("model.layers.0.self_attn.k_scale", {1}, {0.01f});
  source->SetFloats("model.layers.2.self_attn.v_scale", {1}, {0.01f});
  EXPECT_TRUE(Check(*source).ok());
}

TEST(ReadMatrix, NamesTensorAndIndexOfNan) {
  const auto source = RandomDecoder(TinyDecoderConfig(), 1);
  std::vector<float> values(97 * 48, 0.5f);
  values[4000] = std::numeric_limits<float>::quiet_NaN();
  values[4500] = std::numeric_limits<float>::infinity();
  source->SetFloats("lm_head.weight", {97, 48}, values);
  const absl::Status status = ReadMatrix(*source, "lm_head.weight", 97, 48).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("lm_head"), HasSubstr("4000")));
}

QuantizedTensor SmallQuantized() {
  QuantizedTensor tensor;
  tensor.rows = 3;
  tensor.cols = 8;
  tensor.grid = UniformGrid(4, /*is_signed=*/true);
  tensor.block.cols = 4;
  for (int i = 0; i < 24; ++i) tensor.codes.push_back(static_cast<uint8_t>(i * 5 % 16));
  tensor.scale = {1, 2, 0.5f, 4, 8, 0.25f};
  return tensor;
}

TEST(ReadMatrix, RefusesNanScales) {
  MemorySource source(TinyDecoderConfig());
  QuantizedTensor tensor = SmallQuantized();
  tensor.scale[5] = std::numeric_limits<float>::quiet_NaN();
  source.Set("w", tensor);
  EXPECT_EQ(ReadMatrix(source, "w", 3, 8).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ReadMatrix, RefusesInconsistentCodes) {
  MemorySource source(TinyDecoderConfig());
  QuantizedTensor tensor = SmallQuantized();
  tensor.scale.pop_back();
  source.Set("w", tensor);
  const absl::Status status = ReadMatrix(source, "w", 3, 8).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"w\""));
}

std::vector<float> Values(const Weight& weight) {
  MemorySource source(TinyDecoderConfig());
  source.Set("w", weight);
  return source.Floats("w");
}

TEST(WithoutInputTransform, MovesWholeBlocksInTheCodes) {
  QuantizedTensor tensor = SmallQuantized();
  tensor.input.permutation = {5, 4, 7, 6, 0, 2, 1, 3};
  const std::vector<float> expected = Dequantize(tensor);
  const Weight plain = WithoutInputTransform(tensor);
  ASSERT_TRUE(std::holds_alternative<QuantizedTensor>(plain));
  EXPECT_TRUE(std::get<QuantizedTensor>(plain).input.permutation.empty());
  EXPECT_EQ(Values(plain), expected);
}

TEST(WithoutInputTransform, DensifiesWhenBlocksAreTorn) {
  QuantizedTensor tensor = SmallQuantized();
  tensor.input.permutation = {0, 4, 1, 5, 2, 6, 3, 7};
  const std::vector<float> expected = Dequantize(tensor);
  const Weight plain = WithoutInputTransform(tensor);
  ASSERT_TRUE(std::holds_alternative<Tensor>(plain));
  EXPECT_EQ(Values(plain), expected);
}

TEST(WithoutInputTransform, FoldsChannelScaleAndRotation) {
  QuantizedTensor tensor = SmallQuantized();
  tensor.input.hadamard_size = 4;
  tensor.input.channel_scale = {1, 2, 4, 8, 1, 2, 4, 8};
  const std::vector<float> w = Dequantize(tensor);
  const std::vector<float> x = {1, -2, 3, 4, 0.5f, 6, -7, 8};
  // What the layer means: y = W (H (x / s)).
  const int signs[4][4] = {{1, 1, 1, 1}, {1, -1, 1, -1}, {1, 1, -1, -1}, {1, -1, -1, 1}};
  std::vector<float> rotated(8, 0.0f);
  for (int c = 0; c < 8; ++c) {
    for (int k = 0; k < 4; ++k) {
      const int from = c / 4 * 4 + k;
      rotated[c] += 0.5f * signs[c % 4][k] * x[from] / tensor.input.channel_scale[from];
    }
  }
  const std::vector<float> folded = Values(WithoutInputTransform(tensor));
  for (int r = 0; r < 3; ++r) {
    float expected = 0, found = 0;
    for (int c = 0; c < 8; ++c) {
      expected += w[r * 8 + c] * rotated[c];
      found += folded[r * 8 + c] * x[c];
    }
    EXPECT_NEAR(found, expected, 1e-4);
  }
}

TEST(WithoutInputTransform, AddsOutliers) {
  QuantizedTensor tensor = SmallQuantized();
  tensor.outliers = {.row_begin = {0, 1, 1, 2}, .column = {3, 0}, .value = {100, -50}};
  EXPECT_EQ(Values(WithoutInputTransform(tensor)), Dequantize(tensor));
}

TEST(RopeFrequencies, StretchLongWavelengthsOnly) {
  ModelConfig config = TinyDecoderConfig();
  config.head_dim = 64;
  const std::vector<double> plain = RopeFrequencies(config, 256);
  EXPECT_DOUBLE_EQ(plain[0], 1);
  EXPECT_NEAR(plain[16], 0.01, 1e-12);
  config.rope_scaling.kind = RopeScaling::Kind::kLlama3;
  config.rope_scaling.factor = 8;
  const std::vector<double> scaled = RopeFrequencies(config, 256);
  EXPECT_DOUBLE_EQ(scaled[0], plain[0]);
  EXPECT_DOUBLE_EQ(scaled[31], plain[31] / 8);
  // In between: wavelength 2 pi / 1e-3 = 6283 of 8192, smooth = (8192/6283.19 - 1) / 3.
  const double smooth = (8192 / 6283.185307179586 - 1) / 3;
  EXPECT_NEAR(scaled[24], (1 - smooth) * 1e-3 / 8 + smooth * 1e-3, 1e-12);
}

TEST(RopeTable, HoldsCosinesThenSines) {
  ModelConfig config = TinyDecoderConfig();
  config.head_dim = 4;
  const std::vector<float> table = RopeTable(config, 3);
  ASSERT_EQ(table.size(), 12u);
  EXPECT_EQ(table[0], 1);
  EXPECT_EQ(table[2], 0);
  EXPECT_FLOAT_EQ(table[8], static_cast<float>(std::cos(2.0)));
  EXPECT_FLOAT_EQ(table[11], static_cast<float>(std::sin(0.02)));
}

}  // namespace
}  // namespace quantd

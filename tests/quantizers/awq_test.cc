#include "quantizers/codecs/awq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/float_types.h"
#include "quantizers/pipeline.h"
#include "quantizers/solvers/activation_aware.h"
#include "quantizers/solvers/half_products.h"
#include "quantizers/solvers/rounding.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

nlohmann::json ConfigOf(const nlohmann::json& params) {
  return {{"quant_method", "awq"},
          {"bits", 4},
          {"group_size", params["group_size"]},
          {"zero_point", params["zero_point"]},
          {"version", params["version"]}};
}

class AwqGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string Folder() const { return GoldenRoot() + "/awq/" + GetParam(); }
  TensorMap Read(const std::string& file) const {
    const std::string path = Folder() + "/" + file + ".safetensors";
    TensorMap tensors;
    if (std::filesystem::exists(path)) tensors = ReadSafetensors(path);
    if (file == "quantized") tensors.erase("bias");
    return tensors;
  }
  std::string Config() const {
    return ConfigOf(ReadJson(Folder() + "/meta.json")["params"]).dump();
  }
};

TEST_P(AwqGolden, DecodesAndEncodesToTheSameBytes) {
  const auto codec = *CodecFor(ConfigWith(Config(), DType::kF16));
  const TensorMap stored = Read("quantized");
  const MemoryModule module(stored);
  ASSERT_TRUE(codec->IsQuantized(module));
  const auto decoded = codec->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
  const TensorMap expected = Read("expected");
  if (expected.contains("dequant")) {
    EXPECT_EQ(DequantizedDifference(*decoded, expected.at("dequant")), "");
  }
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
  LoadFloats(tensor, 0, NumElements(tensor.shape), values.data());
  return values;
}

// What a Linear of a version stores of a quantized matrix.
TensorMap Stored(AwqVersion version, QuantizedTensor weight) {
  SpellAwq(version, &weight);
  EXPECT_TRUE(Validate(weight).ok()) << Validate(weight);
  return MemoryModule::ToMap(*AwqCodec(AwqConfig()).Encode(weight));
}

// Upstream's own steps: factors, limits, rounding. The sums behind a limit are in another order,
// which may decide between two of nearly the same error.
TEST_P(AwqGolden, SearchesAsUpstream) {
  const TensorMap input = Read("input");
  const TensorMap expected = Read("expected");
  if (!input.contains("weight")) GTEST_SKIP() << "the variant has no input";
  const nlohmann::json params = ReadJson(Folder() + "/meta.json")["params"];
  const AwqSpec spec = {.group_size = params["group_size"], .zero_point = params["zero_point"]};
  HalfMatrix weight = *ToHalfMatrix(input.at("weight"));
  std::vector<float> samples;
  if (input.contains("X")) samples = Floats(input.at("X"));
  if (expected.contains("awq_scale")) {
    const std::vector<float> theirs = Floats(expected.at("awq_scale"));
    const auto ours = SearchFactors(weight, spec, samples, /*duo_scaling=*/true);
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_EQ(*ours, theirs);
    ScaleColumns(theirs, &weight);
    for (size_t i = 0; i < samples.size(); ++i) {
      samples[i] = RoundTo(DType::kF16, samples[i] / theirs[i % theirs.size()]);
    }
  }
  if (expected.contains("clip_max")) {
    const std::vector<float> theirs = Floats(expected.at("clip_max"));
    const auto ours = SearchClip(weight, spec, samples, nullptr);
    ASSERT_TRUE(ours.ok()) << ours.status();
    int64_t different = 0;
    for (size_t i = 0; i < theirs.size(); ++i) different += (*ours)[i] != theirs[i];
    EXPECT_LE(different * 100, static_cast<int64_t>(theirs.size())) << different;
    ApplyClip(spec, theirs, &weight);
  }
  const auto rounded = QuantizeAwq(weight, spec);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_EQ(Difference(Stored(*AwqVersionNamed(params["version"].get<std::string>()), *rounded),
                       Read("quantized")),
            "");
}

// Through the door for one matrix; column factors have no place there.
TEST_P(AwqGolden, QuantizesToUpstreamsBytes) {
  const TensorMap input = Read("input");
  if (!input.contains("weight") || Read("expected").contains("awq_scale")) {
    GTEST_SKIP() << "the variant has no input, or scaled columns";
  }
  const nlohmann::json params = ReadJson(Folder() + "/meta.json")["params"];
  const bool clips = params["search"] == "clip";
  const auto recipe = MakeRecipe("awq", {{"group_size", params["group_size"].dump()},
                                         {"zero_point", params["zero_point"].dump()},
                                         {"version", params["version"].get<std::string>()},
                                         {"apply_scale", "false"},
                                         {"apply_clip", clips ? "true" : "false"}});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  std::optional<TensorView> calibration;
  if (clips) calibration = input.at("X").view();
  const auto quantized =
      QuantizeMatrix(input.at("weight"), calibration ? &*calibration : nullptr, **recipe, nullptr);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  EXPECT_EQ(Difference(MemoryModule::ToMap(quantized->tensors), Read("quantized")), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, AwqGolden, testing::ValuesIn(GoldenVariants("awq", "linear-")));

// The arithmetic of the searches rounds as the conversion to float16 does.
TEST(InFloat16, RoundsEveryKindOfNumber) {
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 4093) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const float expected = FloatFromF16(F16FromFloat(value));
    const float found = InFloat16::Round(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << value;
    }
  }
  for (const float value : {65503.0f, 65519.99f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-14f,
                            0x1.ffep-15f, 0x1.fffp-15f}) {
    EXPECT_EQ(InFloat16::Round(-value), FloatFromF16(F16FromFloat(-value))) << value;
  }
}

// Every instruction set gives the bits that the definition gives.
TEST(HalfProducts, AreTheSameInEveryVariant) {
  constexpr int64_t kStride = 140;
  std::vector<float> x, w;
  for (int i = 0; i < 5 * kStride; ++i) {
    x.push_back(
        InFloat16::Round(std::sin(static_cast<float>(i * i)) * std::ldexp(1.0f, i % 24 - 14)));
    w.push_back(InFloat16::Round(std::cos(static_cast<float>(3 * i * i)) * 0.1f));
  }
  for (const int64_t count : {1, 8, 16, 33, 128}) {
    for (const HalfProducts* const* variant = AllHalfProducts(); *variant != nullptr; ++variant) {
      float sums[5];
      (*variant)->sums(x.data(), kStride, 5, w.data(), count, sums);
      for (int64_t t = 0; t < 5; ++t) {
        float lanes[16] = {};
        for (int64_t i = 0; i < count; ++i) {
          lanes[i % 16] += FloatFromF16(F16FromFloat(x[t * kStride + i] * w[i]));
        }
        for (int width = 8; width > 0; width /= 2) {
          for (int k = 0; k < width; ++k) lanes[k] += lanes[k + width];
        }
        EXPECT_EQ(sums[t], FloatFromF16(F16FromFloat(lanes[0]))) << (*variant)->isa << " " << count;
      }
    }
  }
}

TEST(HalfProducts, RoundsAsItsDefinitionInEveryVariant) {
  const auto half = [](float v) { return InFloat16::Round(v); };
  std::vector<float> values, factors;
  for (int i = 0; i < 77; ++i) {
    values.push_back(half(std::sin(static_cast<float>(i * i)) * std::ldexp(1.0f, i % 20 - 12)));
    factors.push_back(half(0.01f + std::abs(std::cos(static_cast<float>(i)))));
  }
  const HalfGrid grids[] = {{half(0.013f), 7, 0, 15}, {half(0.2f), 0, -8, 7}, {0x1p-24f, 3, 0, 15}};
  for (const HalfProducts* const* variant = AllHalfProducts(); *variant != nullptr; ++variant) {
    for (const size_t count : {1, 5, 16, 64, 77}) {
      std::vector<float> product(values), quotient(values);
      (*variant)->multiply(factors.data(), static_cast<int64_t>(count), product.data());
      (*variant)->divide(factors.data(), static_cast<int64_t>(count), quotient.data());
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(product[i], i < count ? half(values[i] * factors[i]) : values[i]);
        EXPECT_EQ(quotient[i], i < count ? half(values[i] / factors[i]) : values[i]);
      }
      for (const HalfGrid& grid : grids) {
        std::vector<float> rounded(values);
        (*variant)->round(grid, static_cast<int64_t>(count), rounded.data());
        for (size_t i = 0; i < count; ++i) {
          const float step = std::clamp(half(values[i] / grid.scale), -0x1p20f, 0x1p20f);
          const float code = std::clamp(RoundHalfEven(step) + grid.zero, grid.least, grid.most);
          EXPECT_EQ(rounded[i], half((code - grid.zero) * grid.scale))
              << (*variant)->isa << " " << values[i];
        }
      }
    }
  }
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/metal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

class MetalGolden : public GoldenVariant {
 protected:
  MetalGolden() : GoldenVariant("metal") {}
};

TEST_P(MetalGolden, QuantizesToUpstreamsBytes) { ExpectQuantizesToUpstreamsBytes(); }

TEST_P(MetalGolden, DecodesAndEncodesToTheSameBytes) {
  QuantizedTensor decoded;
  ASSERT_NO_FATAL_FAILURE(DecodeAndEncode(DType::kBF16, &decoded));
  EXPECT_EQ(DequantizedDifference(decoded, Read("expected")["weight_dequantized"]), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, MetalGolden,
                         testing::ValuesIn(GoldenVariants("metal", "linear-")));

TEST(Metal, RefusesWhatDoesNotFitByName) {
  const auto status = [](const std::string& fields) {
    return RecipeFromConfig(R"({"quant_method": "metal", )" + fields + "}").status();
  };
  EXPECT_THAT(std::string(status(R"("bits": 3)").message()), HasSubstr("expected 2, 4 or 8"));
  EXPECT_THAT(std::string(status(R"("group_size": 0)").message()), HasSubstr("group_size"));
  EXPECT_THAT(std::string(status(R"("modules_to_not_convert": ["((("])").message()),
              HasSubstr("modules_to_not_convert"));
  const auto recipe = *MakeRecipe("metal", {{"group_size", "48"}});
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->CheckShape(8, 96).ok());
  EXPECT_EQ(scheme->CheckShape(8, 64).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Metal, RefusesScalesOfAnotherShapeOrType) {
  const auto recipe = *MakeRecipe("metal", {{"group_size", "16"}});
  Tensor weight = MakeTensor(DType::kF16, {8, 32});
  const TensorMap stored = QuantizeAndEncode(*recipe, weight);
  const auto codec = *CodecFor(ConfigWith(recipe->QuantizationConfig({}), DType::kF16));
  ASSERT_TRUE(codec->Decode(MemoryModule(stored)).ok());
  for (const char* name : {"weight", "scales", "qbiases"}) {
    TensorMap broken = stored;
    broken.erase(name);
    EXPECT_FALSE(codec->Decode(MemoryModule(broken)).ok()) << name;
    broken[name] = MakeTensor(DType::kI16, {8, 2});
    const absl::Status status = codec->Decode(MemoryModule(broken)).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(name)) << status;
  }
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/fouroversix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

class FourOverSixGolden : public GoldenVariant {
 protected:
  FourOverSixGolden() : GoldenVariant("fouroversix") {}
};

TEST_P(FourOverSixGolden, QuantizesToUpstreamsBytes) { ExpectQuantizesToUpstreamsBytes(); }

TEST_P(FourOverSixGolden, DecodesAndEncodesToTheSameBytes) {
  QuantizedTensor decoded;
  ASSERT_NO_FATAL_FAILURE(DecodeAndEncode(DType::kBF16, &decoded));
  // Upstream casts MXFP4's float16 products, which bfloat16 holds.
  decoded.dequantized_dtype = DType::kBF16;
  EXPECT_EQ(DequantizedDifference(decoded, Read("expected")["weight_dequantized"]), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, FourOverSixGolden,
                         testing::ValuesIn(GoldenVariants("fouroversix", "linear-")));

TEST(FourOverSix, RefusesWhatUpstreamRefusesByName) {
  const auto status = [](const std::string& fields) {
    return RecipeFromConfig(R"({"quant_method": "fouroversix", )" + fields + "}").status();
  };
  EXPECT_THAT(std::string(status(R"("dtype": "fp4")").message()), HasSubstr("nvfp4 or mxfp4"));
  EXPECT_THAT(std::string(status(R"("scale_rule": "max")").message()), HasSubstr("scale_rule"));
  EXPECT_THAT(std::string(status(R"("dtype": "mxfp4")").message()), HasSubstr("static_6"));
  EXPECT_EQ(status(R"("dtype": "if4")").code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(status(R"("keep_master_weights": true)").code(), absl::StatusCode::kUnimplemented);
  EXPECT_TRUE(status(R"("dtype": "mxfp4", "weight_scale_rule": "static_4")").ok());
}

TEST(FourOverSix, KeepsModulesByWholeName) {
  const auto recipe = *MakeRecipe("fouroversix", {});
  ModuleInfo info;
  info.name = "lm_head";
  EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
  info.name = "model.lm_head";
  EXPECT_NE(recipe->SchemeFor(info, ModelConfig()), nullptr);
}

TEST(FourOverSix, RefusesShapesThatDoNotAgree) {
  const auto recipe = *MakeRecipe("fouroversix", {});
  const TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {40, 96}));
  const auto codec = *CodecFor(ConfigWith(recipe->QuantizationConfig({}), DType::kBF16));
  ASSERT_TRUE(codec->Decode(MemoryModule(stored)).ok());
  for (const auto& [name, tensor] : stored) {
    TensorMap broken = stored;
    broken.erase(name);
    EXPECT_FALSE(codec->Decode(MemoryModule(broken)).ok()) << name;
    broken[name] = MakeTensor(DType::kI16, {8, 2});
    EXPECT_THAT(std::string(codec->Decode(MemoryModule(broken)).status().message()),
                HasSubstr(name));
  }
  for (const std::vector<int64_t>& metadata : {std::vector<int64_t>{-1, 96, 128, 128, 1, 1},
                                               {40, 1000, 128, 1024, 1, 1},
                                               {40, 96, 128, 96, 1, 1},
                                               {40, 96, 128, 128, 1, 0}}) {
    TensorMap broken = stored;
    broken["quantized_weight_metadata"] = TensorOf<int64_t>(DType::kI64, {6}, metadata);
    EXPECT_FALSE(codec->Decode(MemoryModule(broken)).ok());
  }
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/aqlm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

class AqlmGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return GoldenRoot() + "/aqlm/" + GetParam(); }
};

std::string ConfigOf(const nlohmann::json& meta) {
  const nlohmann::json& params = meta["params"];
  nlohmann::json config = {{"quant_method", "aqlm"}, {"in_group_size", 8}};
  for (const char* key :
       {"num_codebooks", "nbits_per_codebook", "out_group_size", "in_group_size"}) {
    if (params.contains(key)) config[key] = params[key];
  }
  return config.dump();
}

TEST_P(AqlmGolden, ReadsAndWritesUpstreamsBytes) {
  TensorMap tensors = ReadSafetensors(folder() + "/quantized.safetensors");
  tensors.erase("bias");
  TensorMap expected = ReadSafetensors(folder() + "/expected.safetensors");
  const auto codec = CodecFor(ConfigWith(ConfigOf(ReadJson(folder() + "/meta.json")), DType::kF16));
  ASSERT_TRUE(codec.ok()) << codec.status();
  auto decoded = (*codec)->Decode(MemoryModule(tensors));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(DequantizedDifference(*decoded, expected["dequant_fp16"]), "");
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), tensors), "");
  decoded->dequantized_dtype = DType::kF32;  // as aqlm does with float32 parameters
  EXPECT_EQ(DequantizedDifference(*decoded, expected["dequant_fp32"]), "");
}

INSTANTIATE_TEST_SUITE_P(Variants, AqlmGolden, testing::ValuesIn(GoldenVariants("aqlm", "linear-")),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(AqlmConfig, SkipsBothSpellings) {
  const AqlmConfig config = *ParseAqlmConfig(
      R"({"quant_method": "aqlm",
          "linear_weights_not_to_quantize": ["lm_head.weight", "model.layers.0"]})");
  EXPECT_TRUE(config.IsSkipped("lm_head"));
  EXPECT_TRUE(config.IsSkipped("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(config.IsSkipped("model.layers.1.mlp.up_proj"));
  for (const char* wrong : {R"({"quant_method": "aqlm", "nbits_per_codebook": 17})",
                            R"({"quant_method": "aqlm", "in_group_size": 0})",
                            R"({"quant_method": "aqlm", "num_codebooks": "2"})",
                            R"({"quant_method": "aqlm", "out_group_size": 1e9})"}) {
    EXPECT_EQ(ParseAqlmConfig(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

}  // namespace
}  // namespace quantd

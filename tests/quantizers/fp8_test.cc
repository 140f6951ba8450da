#include "quantizers/codecs/fp8.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

struct Golden {
  std::string config;
  Tensor weight;
  TensorMap quantized;
  Tensor dequantized;
};

// `variant` is "<method>/<name>".
Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/" + variant;
  nlohmann::json config = ReadJson(folder + "/meta.json")["parameters"];
  config["quant_method"] = absl::StartsWith(variant, "fbgemm") ? "fbgemm_fp8" : "fp8";
  Golden golden;
  golden.config = config.dump();
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["weight_dequantized"];
  return golden;
}

std::vector<std::string> Variants() {
  std::vector<std::string> names;
  for (const char* method : {"finegrained_fp8", "fbgemm_fp8"}) {
    for (const std::string& name : GoldenVariants(method, "linear-")) {
      names.push_back(std::string(method) + "/" + name);
    }
  }
  return names;
}

class Fp8Golden : public testing::TestWithParam<std::string> {};

TEST_P(Fp8Golden, QuantizesToUpstreamsBytes) {
  const Golden golden = Load(GetParam());
  const auto recipe = RecipeFromConfig(golden.config);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(Difference(QuantizeAndEncode(**recipe, golden.weight), golden.quantized), "");
}

TEST_P(Fp8Golden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const auto codec = CodecFor(ConfigWith(golden.config, golden.weight.dtype));
  ASSERT_TRUE(codec.ok()) << codec.status();
  const MemoryModule module(golden.quantized);
  ASSERT_TRUE((*codec)->IsQuantized(module));
  const auto decoded = (*codec)->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok());
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
  EXPECT_EQ(decoded->follows_loaded_dtype, (*codec)->quant_method() == "fp8");
}

INSTANTIATE_TEST_SUITE_P(Upstream, Fp8Golden, testing::ValuesIn(Variants()));

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/fp8.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "core/float_types.h"
#include "quantizers/plain_weight.h"
#include "quantizers/solvers/fp8.h"
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

// An element of a matrix that is the same everywhere.
float FirstOf(const QuantizedTensor& matrix, DType dtype) {
  const Tensor plain = ToPlain(matrix, dtype);
  float value = 0;
  LoadFloats(plain.view(), 0, 1, &value);
  return value;
}

TEST(Fp8, IsDequantizedStraightToTheDtypeThatItFollows) {
  Tensor weight = MakeTensor(DType::kBF16, {1, 32});
  const std::vector<float> values(32, 0.3f);
  StoreFloats(DType::kBF16, values.data(), 32, weight.bytes.data());
  QuantizedTensor matrix = *QuantizeTilesFp8(weight.view(), {1, 32}, false);
  matrix.scale = {0.3f};  // products that bfloat16 has not
  ASSERT_TRUE(matrix.follows_loaded_dtype);
  ASSERT_EQ(matrix.dequantized_dtype, DType::kBF16);
  const float rounded = FirstOf(matrix, DType::kBF16);
  EXPECT_NE(FirstOf(matrix, DType::kF32), rounded);
  matrix.follows_loaded_dtype = false;
  EXPECT_EQ(FirstOf(matrix, DType::kF32), rounded);
}

INSTANTIATE_TEST_SUITE_P(Upstream, Fp8Golden, testing::ValuesIn(Variants()));

}  // namespace
}  // namespace quantd

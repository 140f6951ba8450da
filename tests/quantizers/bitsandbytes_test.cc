#include "quantizers/codecs/bitsandbytes.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/bitsandbytes_quant_state.h"
#include "quantizers/grids/four_bit.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

// The options that make what a golden variant's meta.json describes.
std::map<std::string, std::string> OptionsOf(const nlohmann::json& meta) {
  const nlohmann::json& p = meta["parameters"];
  if (!p.contains("quant_type")) return {{"load_in_8bit", "true"}};
  return {{"load_in_4bit", "true"},
          {"bnb_4bit_quant_type", p["quant_type"]},
          {"bnb_4bit_use_double_quant", p["compress_statistics"].get<bool>() ? "true" : "false"},
          {"bnb_4bit_quant_storage", p["quant_storage"]},
          {"bnb_4bit_blocksize", absl::StrCat(p["blocksize"].get<int>())}};
}

struct Golden {
  std::unique_ptr<Recipe> recipe;
  Tensor weight;
  TensorMap quantized;
  Tensor dequantized;
};

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/bitsandbytes/" + variant;
  Golden golden;
  auto recipe = MakeRecipe("bitsandbytes", OptionsOf(ReadJson(folder + "/meta.json")));
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  golden.recipe = *std::move(recipe);
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  golden.quantized.erase("bias");
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["weight_dequantized"];
  return golden;
}

class BitsAndBytesGolden : public testing::TestWithParam<std::string> {};

TEST_P(BitsAndBytesGolden, QuantizesToUpstreamsBytes) {
  const Golden golden = Load(GetParam());
  EXPECT_EQ(Difference(QuantizeAndEncode(*golden.recipe, golden.weight), golden.quantized), "");
}

TEST_P(BitsAndBytesGolden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const MemoryModule module(golden.quantized);
  const BitsAndBytesCodec codec;
  ASSERT_TRUE(codec.IsQuantized(module));
  EXPECT_EQ(codec.WeightTensors(module), module.names());
  const auto decoded = codec.Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok());
  EXPECT_EQ(*codec.MatrixShape(module), (Shape{decoded->rows, decoded->cols}));
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec.Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, BitsAndBytesGolden,
                         testing::ValuesIn(GoldenVariants("bitsandbytes", "linear-")));

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/compressed_tensors.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

nlohmann::json ConfigOf(const nlohmann::json& scheme, const std::string& version) {
  return {{"quant_method", "compressed-tensors"},
          {"version", version},
          {"config_groups", {{"group_0", scheme}}}};
}

struct Golden {
  std::string name;
  nlohmann::json config;
  bool is_static = false;  // activations have scales, which only calibration gives
  bool is_old = false;     // written by compressed-tensors 0.12
  Tensor weight;
  TensorMap quantized;
  Tensor dequantized;
};

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/compressed-tensors/" + variant;
  const nlohmann::json meta = ReadJson(folder + "/meta.json");
  Golden golden;
  golden.is_old = absl::StrContains(variant, "oldpack");
  nlohmann::json scheme = meta["scheme"];
  if (golden.is_old) scheme = {{"weights", scheme}, {"targets", {"Linear"}}};
  golden.is_static = absl::StrContains(variant, "static");
  golden.config = ConfigOf(scheme, meta["package"]["compressed-tensors"]);
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  golden.quantized.erase("bias");
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["weight_dequantized"];
  return golden;
}

std::vector<std::string> Variants() {
  std::vector<std::string> names;
  for (const std::string& name : GoldenVariants("compressed-tensors", "linear-")) {
    if (!absl::StrContains(name, "sparse") && !absl::StrContains(name, "marlin")) {
      names.push_back(name);
    }
  }
  return names;
}

class CompressedTensorsGolden : public testing::TestWithParam<std::string> {};

TEST_P(CompressedTensorsGolden, QuantizesToUpstreamsBytes) {
  Golden golden = Load(GetParam());
  if (golden.is_old) GTEST_SKIP() << "scales of zero groups changed since 0.12";
  if (golden.is_static) {  // activation_scales_test.cc has their scales
    golden.config["config_groups"]["group_0"]["input_activations"]["dynamic"] = true;
    golden.quantized.erase("input_scale");
  }
  const auto recipe = RecipeFromConfig(golden.config.dump());
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(Difference(QuantizeAndEncode(**recipe, golden.weight), golden.quantized), "");
}

TEST_P(CompressedTensorsGolden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const auto codec = CodecFor(ConfigWith(golden.config.dump(), golden.weight.dtype));
  ASSERT_TRUE(codec.ok()) << codec.status();
  const MemoryModule module(golden.quantized);
  ASSERT_TRUE((*codec)->IsQuantized(module));
  EXPECT_EQ((*codec)->WeightTensors(module).size(), module.names().size());
  const auto decoded = (*codec)->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, CompressedTensorsGolden, testing::ValuesIn(Variants()));

// Upstream has no compressor for these since 0.15: by the format of the document, by that of a
// group, and as sparsity beside a quantization.
TEST(CompressedTensors, RefusesTheSparseFormatsByName) {
  const nlohmann::json scheme = {{"targets", {"Linear"}}, {"weights", {{"num_bits", 8}}}};
  for (const std::string format : {"sparse-bitmask", "sparse-24-bitmask", "marlin-24"}) {
    nlohmann::json whole = ConfigOf(scheme, "0.12.2");
    whole["format"] = format;
    nlohmann::json group = ConfigOf(scheme, "0.12.2");
    group["config_groups"]["group_0"]["format"] = format;
    nlohmann::json beside = ConfigOf(scheme, "0.12.2");
    beside["format"] = "int-quantized";
    beside["sparsity_config"] = {{"format", format}, {"targets", {"Linear"}}};
    const nlohmann::json alone = {{"quant_method", "compressed-tensors"},
                                  {"sparsity_config", {{"format", format}}}};
    for (const nlohmann::json& config : {whole, group, beside, alone}) {
      const absl::Status status = CodecFor(ConfigWith(config.dump(), DType::kF32)).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << config << status;
      EXPECT_TRUE(absl::StrContains(status.message(), "format: found \"" + format + "\""))
          << status;
      EXPECT_EQ(RecipeFromConfig(config.dump()).status(), status);
    }
  }
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/quark.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

struct Golden {
  nlohmann::json config;
  Tensor weight;
  TensorMap quantized;
  Tensor dequantized;
};

// A whole document around the tensor config of a variant.
nlohmann::json ConfigOf(const nlohmann::json& meta) {
  return {{"quant_method", "quark"},
          {"exclude", {"lm_head"}},
          {"export", {{"pack_method", meta["pack_method"]}, {"weight_format", "real_quantized"}}},
          {"global_quant_config", {{"weight", meta["quantization_config_weight"]}}}};
}

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/quark/" + variant;
  Golden golden;
  golden.config = ConfigOf(ReadJson(folder + "/meta.json"));
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["weight_dequantized"];
  return golden;
}

class QuarkGolden : public testing::TestWithParam<std::string> {};

TEST_P(QuarkGolden, QuantizesToUpstreamsBytes) {
  const Golden golden = Load(GetParam());
  const auto recipe = RecipeFromConfig(golden.config.dump());
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(Difference(QuantizeAndEncode(**recipe, golden.weight), golden.quantized), "");
}

TEST_P(QuarkGolden, DecodesAndEncodesToTheSameBytes) {
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

INSTANTIATE_TEST_SUITE_P(Upstream, QuarkGolden,
                         testing::ValuesIn(GoldenVariants("quark", "linear-")));

TEST(Quark, NamesInMemoryAreReadAndWrittenAgain) {
  const auto recipe = *MakeRecipe("quark", {});
  const TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {16, 128}));
  const auto codec =
      *CodecFor(ConfigWith(recipe->QuantizationConfig(ConfigWith("", DType::kBF16)), DType::kBF16));
  TensorMap raw = {{"weight", stored.at("weight")},
                   {"weight_quantizer.scale", stored.at("weight_scale")},
                   {"weight_quantizer.zero_point", stored.at("weight_zero_point")},
                   {"input_scale", MakeTensor(DType::kBF16, {})}};
  const auto decoded = codec->Decode(MemoryModule(raw));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), raw), "");
}

std::string WithLayer(const std::string& layers) {
  return R"({"quant_method": "quark", "export": {}, "exclude": ["lm_head", "*.1.*"],
             "global_quant_config": {"weight": {"dtype": "int8", "qscheme": "per_channel",
                                                "ch_axis": 0}},
             "layer_quant_config": )" +
         layers + "}";
}

TEST(Quark, LayersAreFoundByWildcards) {
  const auto recipe = RecipeFromConfig(
      WithLayer(R"({"*down_proj": {"weight": {"dtype": "fp4", "qscheme": "per_group",
                    "ch_axis": -1, "group_size": 32, "scale_format": "e8m0"}},
                    "model.layers.?.self_attn.[qk]_proj": {"weight": null}})"));
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto described = [&](const std::string& module) {
    ModuleInfo info;
    info.name = module;
    const Scheme* scheme = (*recipe)->SchemeFor(info, ModelConfig());
    return scheme == nullptr ? "kept" : scheme->Describe();
  };
  EXPECT_EQ(described("model.layers.0.mlp.up_proj"), "int8 channel");
  EXPECT_EQ(described("model.layers.0.mlp.down_proj"), "fp4 group 32");
  EXPECT_EQ(described("model.layers.1.mlp.down_proj"), "kept");
  EXPECT_EQ(described("model.layers.0.self_attn.k_proj"), "kept");
  EXPECT_EQ(described("model.layers.0.self_attn.v_proj"), "int8 channel");
  EXPECT_EQ(described("lm_head"), "kept");
}

TEST(Quark, RefusesWhatUpstreamCannotExportOrNeedsDataFor) {
  const auto code_of = [](const std::string& layer) {
    return RecipeFromConfig(WithLayer(R"({"x": )" + layer + "}")).status().code();
  };
  for (const char* layer :
       {R"({"weight": {"dtype": "int5", "qscheme": "per_tensor"}})",
        R"({"weight": {"dtype": "int4"}})", R"({"weight": {"dtype": 4, "qscheme": "per_tensor"}})",
        R"({"weight": {"dtype": "int4", "qscheme": "per_group", "ch_axis": -1}})",
        R"({"weight": {"dtype": "int4", "qscheme": "per_group", "ch_axis": 0, "group_size": 8}})",
        R"({"weight": {"dtype": "int4", "qscheme": "per_group", "ch_axis": -1, "group_size": 0}})",
        R"({"weight": {"dtype": "int4", "qscheme": "per_group", "ch_axis": -1,
             "group_size": 9223372036854775808}})",
        R"({"weight": {"dtype": "int8", "qscheme": "per_channel", "ch_axis": 1}})",
        R"({"weight": {"dtype": "fp4", "qscheme": "per_group", "ch_axis": -1, "group_size": 32}})",
        R"({"weight": {"dtype": "fp8_e4m3", "qscheme": "per_group", "ch_axis": -1,
             "group_size": 32}})",
        R"({"weight": {"dtype": "int8", "qscheme": "per_tensor", "round_method": "floor"}})", "[]",
        "3"}) {
    EXPECT_EQ(code_of(layer), absl::StatusCode::kInvalidArgument) << layer;
  }
  for (const char* layer :
       {R"({"weight": {"dtype": "int16", "qscheme": "per_tensor"}})",
        R"({"weight": {"dtype": "uint4", "qscheme": "per_tensor", "zero_point_type": "float32"}})",
        R"({"weight": [{"dtype": "int8", "qscheme": "per_tensor"}]})",
        R"({"bias": {"dtype": "int8", "qscheme": "per_tensor"}})",
        R"({"input_tensors": {"dtype": "int8", "qscheme": "per_tensor", "is_dynamic": false}})"}) {
    EXPECT_EQ(code_of(layer), absl::StatusCode::kUnimplemented) << layer;
  }
}

TEST(Quark, ShapesThatCannotBePackedAreRefused) {
  const auto check = [](const std::map<std::string, std::string>& options, int64_t rows,
                        int64_t cols) {
    ModuleInfo info;
    info.name = "m";
    return (*MakeRecipe("quark", options))->SchemeFor(info, ModelConfig())->CheckShape(rows, cols);
  };
  EXPECT_TRUE(check({{"group_size", "32"}}, 8, 96).ok());
  EXPECT_THAT(std::string(check({{"group_size", "32"}}, 7, 96).message()), HasSubstr("rows"));
  EXPECT_THAT(std::string(check({{"group_size", "32"}}, 8, 95).message()), HasSubstr("divide"));
  EXPECT_THAT(std::string(check({{"qscheme", "per_tensor"}}, 7, 95).message()),
              HasSubstr("columns"));
  EXPECT_TRUE(check({{"bits", "3"}, {"group_size", "32"}}, 7, 256).ok());
  EXPECT_FALSE(check({{"bits", "3"}, {"group_size", "64"}}, 7, 256).ok());
  EXPECT_FALSE(check({{"bits", "3"}, {"qscheme", "per_tensor"}}, 8, 256).ok());
  EXPECT_TRUE(check({{"bits", "8"}, {"qscheme", "per_channel"}}, 7, 3).ok());
}

}  // namespace
}  // namespace quantd

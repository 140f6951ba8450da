#include "quantizers/codecs/hqq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

struct Golden {
  nlohmann::json config;
  std::string compute_dtype;
  Tensor weight;
  TensorMap quantized;  // without the bias, which is a parameter of its own
  Tensor dequantized;
};

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/hqq/" + variant;
  const nlohmann::json parameters = ReadJson(folder + "/meta.json")["params"];
  Golden golden;
  golden.config = {{"quant_method", "hqq"},
                   {"quant_config", parameters["quant_config"]},
                   {"skip_modules", {"lm_head"}}};
  golden.compute_dtype = parameters["compute_dtype"].get<std::string>().substr(6);
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  golden.quantized.erase("bias");
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["dequant"];
  return golden;
}

// The options that say what a quant_config says.
std::map<std::string, std::string> OptionsOf(const Golden& golden) {
  const nlohmann::json& layer = golden.config["quant_config"]["weight_quant_params"];
  return {{"nbits", layer["nbits"].dump()},
          {"group_size", layer["group_size"].is_null() ? "none" : layer["group_size"].dump()},
          {"axis", layer["axis"].dump()},
          {"view_as_float", layer["view_as_float"].dump()},
          {"optimize", layer["optimize"].dump()},
          {"compute_dtype", golden.compute_dtype}};
}

class HqqGolden : public testing::TestWithParam<std::string> {};

TEST_P(HqqGolden, QuantizesToUpstreamsBytes) {
  const Golden golden = Load(GetParam());
  const auto by_options = MakeRecipe("hqq", OptionsOf(golden));
  ASSERT_TRUE(by_options.ok()) << by_options.status();
  EXPECT_EQ(Difference(QuantizeAndEncode(**by_options, golden.weight), golden.quantized), "");
  const auto by_config = RecipeFromConfig(golden.config.dump());
  ASSERT_TRUE(by_config.ok()) << by_config.status();
  EXPECT_EQ(nlohmann::json::parse((*by_config)->QuantizationConfig(ModelConfig())), golden.config);
  if (golden.compute_dtype != "float16") return;  // a config does not say another
  EXPECT_EQ(Difference(QuantizeAndEncode(**by_config, golden.weight), golden.quantized), "");
}

TEST_P(HqqGolden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const auto codec = CodecFor(ConfigWith(golden.config.dump(), DType::kF16));
  ASSERT_TRUE(codec.ok()) << codec.status();
  const MemoryModule module(golden.quantized);
  ASSERT_TRUE((*codec)->IsQuantized(module));
  const auto decoded = (*codec)->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, HqqGolden, testing::ValuesIn(GoldenVariants("hqq", "linear-")));

std::string ConfigText(const std::string& quant_config) {
  return "{\"quant_method\": \"hqq\", \"quant_config\": " + quant_config + "}";
}

TEST(HqqConfig, RefusesWhatUpstreamCannotStore) {
  for (const auto& [layer, message] : std::vector<std::pair<std::string, std::string>>{
           {"null", "quant_config: found null"},
           {"4", "expected an object"},
           {"{}", "weight_quant_params"},
           {R"({"weight_quant_params": null})", "weight_quant_params"},
           {R"({"weight_quant_params": {"nbits": 7}})", "one of 8, 6"},
           {R"({"weight_quant_params": {"nbits": "4"}})", "one of 8, 6"},
           {R"({"weight_quant_params": {"nbits": -4}})", "one of 8, 6"},
           {R"({"weight_quant_params": {"group_size": 0}})", "an integer from 8"},
           {R"({"weight_quant_params": {"group_size": 7}})", "an integer from 8"},
           {R"({"weight_quant_params": {"group_size": 12}})", "multiple of 8"},
           {R"({"weight_quant_params": {"group_size": 9223372036854775808}})", "an integer from 8"},
           {R"({"weight_quant_params": {"axis": 2}})", "0 to 1"},
           {R"({"weight_quant_params": {"channel_wise": false}})", "channel_wise"},
           {R"({"weight_quant_params": {"colour": 1}})", "unknown key"},
           {R"({"weight_quant_params": {}, "scale_quant_params": {"nbits": 8}})", "null"},
           {R"({"weight_quant_params": {}, "offload_meta": true})", "offload_meta"},
           {R"({"self_attn.q_proj": 4})", "self_attn.q_proj"}}) {
    const auto recipe = RecipeFromConfig(ConfigText(layer));
    EXPECT_EQ(recipe.status().code(), StatusCode::kInvalidArgument) << layer;
    EXPECT_THAT(recipe.status().message(), HasSubstr(message));
    EXPECT_EQ(CodecFor(ConfigWith(ConfigText(layer), DType::kF16)).status().code(),
              StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(RecipeFromConfig(R"({"quant_method": "hqq"})").status().message(),
              HasSubstr("quant_config"));
  const char* kSkipsAll =
      R"({"quant_method": "hqq", "skip_modules": [""], "quant_config": {"weight_quant_params": {}}})";
  EXPECT_THAT(RecipeFromConfig(kSkipsAll).status().message(), HasSubstr("a name is empty"));
}

// Each linear tag has its own parameters; layers of other tags and skipped ones stay as they are.
TEST(HqqConfig, DynamicParametersGoByLinearTag) {
  const auto recipe = RecipeFromConfig(ConfigText(R"({
      "self_attn.q_proj": {"weight_quant_params": {"nbits": 8, "group_size": 64, "axis": 1}},
      "mlp.up_proj": {"weight_quant_params": {"nbits": 1.58, "group_size": null, "axis": 0}}})"));
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto described = [&](const std::string& module) {
    ModuleInfo info;
    info.name = module;
    const Scheme* scheme = (*recipe)->SchemeFor(info, ModelConfig());
    return scheme == nullptr ? "kept" : scheme->Describe();
  };
  EXPECT_EQ(described("model.layers.11.self_attn.q_proj"), "hqq 8 bit, group 64, axis 1");
  EXPECT_EQ(described("model.layers.3.mlp.up_proj"), "hqq 1.58 bit, whole rows or columns, axis 0");
  EXPECT_EQ(described("model.layers.3.mlp.down_proj"), "kept");
  EXPECT_EQ(described("lm_head"), "kept");
  const std::string written = (*recipe)->QuantizationConfig(ModelConfig());
  EXPECT_EQ((*RecipeFromConfig(written))->QuantizationConfig(ModelConfig()), written);
}

TEST(HqqConfig, SkipsByPartsOfNames) {
  const auto recipe = *MakeRecipe("hqq", {{"skip_modules", "mlp,layers.1."}});
  ModuleInfo info;
  for (const auto& [name, kept] :
       std::map<std::string, bool>{{"model.layers.0.mlp.up_proj", true},
                                   {"model.layers.1.self_attn.q_proj", true},
                                   {"model.layers.11.self_attn.q_proj", false},
                                   {"lm_head", false}}) {
    info.name = name;
    EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()) == nullptr, kept) << name;
  }
}

TEST(HqqShapes, AreRefusedBeforeAnythingIsWritten) {
  const auto check = [](const std::map<std::string, std::string>& options, int64_t rows,
                        int64_t cols) {
    ModuleInfo info;
    info.name = "model.layers.0.mlp.up_proj";
    return (*MakeRecipe("hqq", options))->SchemeFor(info, ModelConfig())->CheckShape(rows, cols);
  };
  EXPECT_THAT(check({}, 33, 33).message(), HasSubstr("group_size 64 does not divide the 1089"));
  EXPECT_TRUE(check({}, 2, 64).ok());
  EXPECT_THAT(check({}, 3, 64).message(), HasSubstr("packs 2 rows"));
  EXPECT_TRUE(check({{"nbits", "3"}}, 3, 64).ok());
  EXPECT_THAT(check({{"nbits", "1"}}, 4, 64).message(), HasSubstr("packs 8 rows"));
  EXPECT_TRUE(check({{"nbits", "1"}, {"axis", "0"}}, 4, 64).ok());
  EXPECT_THAT(
      check({{"nbits", "8"}, {"group_size", "none"}, {"view_as_float", "true"}}, 4, 33).message(),
      HasSubstr("view_as_float"));
}

}  // namespace
}  // namespace quantd

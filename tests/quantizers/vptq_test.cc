#include "quantizers/codecs/vptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

std::string ConfigOf(const nlohmann::json& meta) {
  return nlohmann::json{
      {"quant_method", "vptq"},
      {"config_for_layers", {{kModule, meta["params"]["config_for_layers_entry"]}}}}
      .dump();
}

class VptqGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return GoldenRoot() + "/vptq/" + GetParam(); }
};

TEST_P(VptqGolden, ReadsAndWritesUpstreamsBytes) {
  TensorMap tensors = ReadSafetensors(folder() + "/quantized.safetensors");
  tensors.erase("bias");
  TensorMap expected = ReadSafetensors(folder() + "/expected.safetensors");
  const std::string config = ConfigOf(ReadJson(folder() + "/meta.json"));
  const auto codec = CodecFor(ConfigWith(config, DType::kF16));
  ASSERT_TRUE(codec.ok()) << codec.status();
  auto decoded = (*codec)->Decode(MemoryModule(tensors, kModule));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(DequantizedDifference(*decoded, expected["dequant_native"]), "");
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), tensors), "");
  decoded->dequantized_dtype = DType::kF32;  // as vptq does with float32 parameters
  EXPECT_EQ(DequantizedDifference(*decoded, expected["dequant_fp32"]), "");
}

TEST_P(VptqGolden, WritesEveryKeyOfTheConfig) {
  const std::string text = ConfigOf(ReadJson(folder() + "/meta.json"));
  const nlohmann::json written = nlohmann::json::parse(WriteVptqConfig(*ParseVptqConfig(text)));
  EXPECT_EQ(written["config_for_layers"], nlohmann::json::parse(text)["config_for_layers"]);
}

INSTANTIATE_TEST_SUITE_P(Variants, VptqGolden, testing::ValuesIn(GoldenVariants("vptq", "linear-")),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// A layer of 16 rows and 24 columns.
nlohmann::json Layer() {
  return {{"vector_lens", {-1, 8}},
          {"num_centroids", {-1, 16}},
          {"num_res_centroids", {-1, 4}},
          {"group_num", 1},
          {"group_size", 24},
          {"outlier_size", 0},
          {"indices_as_float", false},
          {"enable_norm", true},
          {"enable_perm", true},
          {"is_indice_packed", true},
          {"in_features", 24},
          {"out_features", 16},
          {"bias", false}};
}

TEST(VptqConfig, RefusesLayoutsThatDoNotExist) {
  struct Wrong {
    const char* key;
    nlohmann::json value;
  };
  const Wrong cases[] = {{"vector_lens", {-1, 0}},
                         {"vector_lens", {8}},
                         {"vector_lens", 8},
                         {"num_centroids", {-1, 17}},
                         {"num_centroids", {-1, 131072}},
                         {"num_res_centroids", {-1, 32}},
                         {"num_res_centroids", {4, 4}},
                         {"group_num", 0},
                         {"group_size", 23},
                         {"outlier_size", 4},
                         {"indices_as_float", true},
                         {"is_indice_packed", false},
                         {"in_features", 0},
                         {"out_features", -8},
                         {"enable_norm", "yes"},
                         {"colour", 1}};
  for (const Wrong& wrong : cases) {
    nlohmann::json layer = Layer();
    layer[wrong.key] = wrong.value;
    const nlohmann::json config = {{"quant_method", "vptq"},
                                   {"config_for_layers", {{kModule, layer}}}};
    EXPECT_EQ(ParseVptqConfig(config.dump()).status().code(), absl::StatusCode::kInvalidArgument)
        << wrong.key << " " << wrong.value;
  }
  EXPECT_FALSE(ParseVptqConfig(R"({"quant_method": "vptq", "enable_proxy_error": true})").ok());
}

TEST(VptqConfig, SharedLayersAreFoundByTheLastPartOfTheName) {
  const nlohmann::json config = {{"quant_method", "vptq"},
                                 {"shared_layer_config", {{"up_proj", Layer()}}}};
  const VptqConfig parsed = *ParseVptqConfig(config.dump());
  EXPECT_NE(parsed.Find("model.layers.7.mlp.up_proj"), nullptr);
  EXPECT_EQ(parsed.Find("model.layers.7.mlp.down_proj"), nullptr);
}

}  // namespace
}  // namespace quantd

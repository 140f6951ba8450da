#include "quantizers/codecs/vptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/float_types.h"
#include "core/parallel.h"
#include "tests/quantizers/calibrated.h"

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

// What the entry says as options; the outliers of the golden layer are 8 of 128 columns.
std::map<std::string, std::string> OptionsOf(const nlohmann::json& entry) {
  const auto pair = [&entry](const char* key) {
    return entry[key][0].dump() + "," + entry[key][1].dump();
  };
  return {{"vector_lens", pair("vector_lens")},
          {"num_centroids", pair("num_centroids")},
          {"num_res_centroids", pair("num_res_centroids")},
          {"npercent", entry["outlier_size"] == 0 ? "0" : "6.25"},
          {"group_num", entry["group_num"].dump()},
          {"enable_norm", entry["enable_norm"].dump()},
          {"enable_perm", entry["enable_perm"].dump()}};
}

// The golden centroids are of a plain k-means weighted by the Hessian's diagonal; from random
// starts ours end within 15 percent of it.
TEST_P(VptqGolden, QuantizesAsWellAsTheGoldenKMeans) {
  const nlohmann::json entry =
      ReadJson(folder() + "/meta.json")["params"]["config_for_layers_entry"];
  const TensorMap input = ReadSafetensors(folder() + "/input.safetensors");
  const TensorMap expected = ReadSafetensors(folder() + "/expected.safetensors");
  const Tensor& weight = input.at("weight");
  const int64_t cols = weight.shape[1];
  if (weight.view().elements() / 8 < entry["num_centroids"][1]) {
    GTEST_SKIP() << "more centroids than vectors";
  }
  std::vector<float> gram(cols * cols);
  for (int64_t c = 0; c < cols; ++c) {
    gram[c * (cols + 1)] = LoadFloat(input.at("hessian_diag"), c);
  }
  const auto recipe = MakeRecipe("vptq", OptionsOf(entry));
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const QuantizedTensor ours = QuantizeWithGram(**recipe, weight, gram, 1);
  std::vector<float> golden(weight.view().elements());
  LoadFloats(expected.at("dequant_fp32"), 0, weight.view().elements(), golden.data());
  EXPECT_LE(LayerError(Dequantize(ours), weight, gram), 1.15 * LayerError(golden, weight, gram));
  // The layout and the config are the golden ones.
  ModuleInfo info;
  info.name = kModule;
  info.rows = weight.shape[0];
  info.cols = cols;
  const std::string config = (*recipe)->QuantizationConfigFor(ModelConfig(), {info});
  nlohmann::json written = nlohmann::json::parse(config)["config_for_layers"][kModule];
  written["bias"] = entry["bias"];
  EXPECT_EQ(written, entry);
  const TensorMap encoded = MemoryModule::ToMap(*(*recipe)->codec()->Encode(ours));
  const auto decoded =
      (*CodecFor(ConfigWith(config, DType::kF16)))->Decode(MemoryModule(encoded, kModule));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Dequantize(*decoded), Dequantize(ours));
}

INSTANTIATE_TEST_SUITE_P(Variants, VptqGolden, testing::ValuesIn(GoldenVariants("vptq", "linear-")),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TensorMap Input() {
  return ReadSafetensors(GoldenRoot() + "/aqlm/linear-2x8-og2-g8/input.safetensors");
}

const std::map<std::string, std::string> kSmall = {{"num_centroids", "-1,256"},
                                                   {"num_res_centroids", "-1,64"}};

TEST(Vptq, LaterColumnsMakeUpForErrors) {
  const TensorMap input = Input();
  const std::vector<float> gram = GramOf(input.at("X_calib"));
  const int64_t cols = input.at("weight").shape[1];
  std::vector<float> diagonal(gram.size());
  for (int64_t c = 0; c < cols; ++c) diagonal[c * (cols + 1)] = gram[c * (cols + 1)];
  const auto recipe = *MakeRecipe("vptq", kSmall);
  const auto error = [&](const std::vector<float>& told) {
    const QuantizedTensor weight = QuantizeWithGram(*recipe, input.at("weight"), told, 160);
    return LayerError(Dequantize(weight), input.at("weight"), gram);
  };
  EXPECT_LT(error(gram), 0.9 * error(diagonal));
}

TEST(Vptq, StopsWhenAskedAndDoesNotDependOnThreads) {
  const TensorMap input = Input();
  const std::vector<float> gram = GramOf(input.at("X_calib"));
  const auto recipe = *MakeRecipe("vptq", kSmall);
  EXPECT_EQ(QuantizeStopped(*recipe, input.at("weight"), gram).code(),
            absl::StatusCode::kCancelled);
  const auto quantize = [&](int threads) {
    SetComputeThreads(threads);
    const QuantizedTensor weight = QuantizeWithGram(*recipe, input.at("weight"), gram, 160);
    SetComputeThreads(0);
    return MemoryModule::ToMap(*recipe->codec()->Encode(weight));
  };
  EXPECT_EQ(Difference(quantize(3), quantize(1)), "");
}

TEST(Vptq, RefusesWhatDoesNotFit) {
  ModuleInfo info;
  info.name = kModule;
  info.layer = 0;
  const auto recipe = *MakeRecipe("vptq", {});
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->CheckShape(1024, 512).ok());
  EXPECT_FALSE(scheme->CheckShape(1024, 511).ok()) << "fewer vectors than centroids";
  const auto grouped = *MakeRecipe("vptq", {{"group_num", "3"}, {"num_centroids", "-1,256"}});
  EXPECT_FALSE(grouped->SchemeFor(info, ModelConfig())->CheckShape(1024, 512).ok());
  for (const std::map<std::string, std::string>& wrong :
       {std::map<std::string, std::string>{{"vector_lens", "8"}},
        {{"num_centroids", "-1,100"}},
        {{"num_res_centroids", "4,256"}},
        {{"vector_lens", "4,8"}},
        {{"npercent", "5"}},
        {{"group_num", "0"}},
        {{"kiter", "0"}},
        {{"percdamp", "-1"}}}) {
    EXPECT_EQ(MakeRecipe("vptq", wrong).status().code(), absl::StatusCode::kInvalidArgument)
        << wrong.begin()->first;
  }
}

TEST(Vptq, RefusesBrokenTensors) {
  const std::string folder = GoldenRoot() + "/vptq/linear-v8-k512-outlier";
  const TensorMap good = ReadSafetensors(folder + "/quantized.safetensors");
  const auto codec = *CodecFor(ConfigWith(ConfigOf(ReadJson(folder + "/meta.json")), DType::kF16));
  CheckSpoiltAreRefused(
      *codec, good,
      {{"no indices", Without("indices"), "indices: the tensor is missing"},
       {"no centroids", Without("centroids.weight"), "centroids.weight: the tensor is missing"},
       {"no order", Without("perm"), "perm: the tensor is missing"},
       {"no scale", Without("weight_scale"), "weight_scale: the tensor is missing"},
       {"no outliers", Without("outlier_indices"), "outlier_indices: the tensor is missing"},
       {"short words", Zeros("indices", DType::kI32, {1, 8, 33}), "expected I32 [1, 8, 34]"},
       {"used padding", SetElement<uint32_t>("indices", 33, 0x80000000), "hold no code"},
       {"few centroids", Zeros("centroids.weight", DType::kF16, {1, 2048}), "[1, 4096]"},
       {"whole centroids", Zeros("centroids.weight", DType::kI32, {1, 4096}), "expected F16"},
       {"NaN", SetElement<uint16_t>("centroids.weight", 1, 0x7e00), "not a finite number"},
       {"other dtype", Zeros("weight_bias", DType::kBF16, {128}), "expected F16"},
       {"high outlier", SetElement<uint16_t>("outlier_indices", 2, 64), "found 64 at element 2"},
       {"column twice", SetElement<uint16_t>("perm", 1, 127), "perm"},
       {"column above", SetElement<uint16_t>("perm", 0, 128), "found 128 at element 0"}});
  const auto other = *CodecFor(ConfigWith(R"({"quant_method": "vptq"})", DType::kF16));
  EXPECT_THAT(std::string(other->Decode(MemoryModule(good)).status().message()),
              testing::HasSubstr("config_for_layers has no entry"));
}

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

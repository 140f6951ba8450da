#include "quantizers/codecs/quanto.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/row_slices.h"
#include "quantizers/solvers/quanto.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

// The model that a matrix of upstream's comes from, as far as the codec asks.
ModelConfig ModelOf(const std::string& quantization_config, const Tensor& weight) {
  ModelConfig config = ConfigWith(quantization_config, weight.dtype);
  config.hidden_size = weight.shape[1];
  return config;
}

class QuantoGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string Folder() const { return GoldenRoot() + "/quanto/" + GetParam(); }
  TensorMap Read(const std::string& file) const {
    TensorMap tensors = ReadSafetensors(Folder() + "/" + file + ".safetensors");
    if (file == "quantized") tensors.erase("bias");
    return tensors;
  }
  std::string Config() const {
    const auto weights = ReadJson(Folder() + "/meta.json")["parameters"]["weights"];
    return nlohmann::json{{"quant_method", "quanto"}, {"weights", weights}}.dump();
  }
};

TEST_P(QuantoGolden, QuantizesToUpstreamsBytes) {
  const auto recipe = *RecipeFromConfig(Config());
  EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, Read("input")["weight"]), Read("quantized")), "");
}

TEST_P(QuantoGolden, DecodesAndEncodesToTheSameBytes) {
  const auto codec = *CodecFor(ModelOf(Config(), Read("input")["weight"]));
  const TensorMap stored = Read("quantized");
  const MemoryModule module(stored);
  ASSERT_TRUE(codec->IsQuantized(module));
  const auto decoded = codec->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok());
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
  EXPECT_EQ(DequantizedDifference(*decoded, Read("expected")["weight_dequantized"]), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, QuantoGolden,
                         testing::ValuesIn(GoldenVariants("quanto", "linear-")));

TEST(Quanto, GroupsAreTheFirstOf128To32ThatDivide) {
  EXPECT_EQ(QuantoGroupSize(128), 0);
  EXPECT_EQ(QuantoGroupSize(256), 128);
  EXPECT_EQ(QuantoGroupSize(192), 96);
  EXPECT_EQ(QuantoGroupSize(320), 64);
  EXPECT_EQ(QuantoGroupSize(160), 32);
  EXPECT_EQ(QuantoGroupSize(200), 0);
}

TEST(Quanto, ARowOfZerosStaysZeros) {
  Tensor weight = MakeTensor(DType::kF32, {2, 64});
  std::vector<float> values(128, 0.0f);
  for (int i = 64; i < 128; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i);
  StoreFloats(DType::kF32, values.data(), 128, weight.bytes.data());
  for (const std::string type : {"int8", "float8", "float8_e5m2", "float8_e4m3fnuz"}) {
    const auto recipe = MakeRecipe("quanto", {{"weights", type}});
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    const TensorMap stored = QuantizeAndEncode(**recipe, weight);
    EXPECT_EQ(static_cast<uint8_t>(stored.at("weight._data").bytes[0]), 0) << type;
    EXPECT_NE(static_cast<uint8_t>(stored.at("weight._data").bytes[127]), 0) << type;
  }
}

TEST(Quanto, SlicesOfRowsShareBytes) {
  const std::vector<uint8_t> codes = {1, 2, 3, 0, 1};  // 5 rows of one column
  const std::vector<uint8_t> bytes = PackRowSlices(codes, 5, 1, 2);
  EXPECT_THAT(bytes, testing::ElementsAre(1 | 3 << 2 | 1 << 4, 2 | 0 << 2));
  EXPECT_EQ(UnpackRowSlices(bytes, 5, 1, 2), codes);
}

TEST(Quanto, AMatrixOfOneRowHasAScalarScale) {
  const auto recipe = *MakeRecipe("quanto", {});
  Tensor weight = MakeTensor(DType::kF32, {1, 40});
  weight.bytes[3] = std::byte{0x3f};
  const TensorMap stored = QuantizeAndEncode(*recipe, weight);
  EXPECT_EQ(stored.at("weight._scale").shape, Shape{});
  const auto codec = *CodecFor(ModelOf(R"({"quant_method": "quanto"})", weight));
  const auto decoded = codec->Decode(MemoryModule(stored));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
}

TEST(Quanto, ReadsIntegerShifts) {
  TensorMap stored;
  const uint8_t packed[2] = {0x21, 0x43};
  stored["weight._data._data"] = TensorOf<uint8_t>(DType::kU8, {1, 2}, packed);
  const float scale[2] = {0.5f, 2.0f};
  stored["weight._scale"] = TensorOf<float>(DType::kF32, {2, 1}, scale);
  const uint8_t shift[2] = {1, 8};
  stored["weight._shift"] = TensorOf<uint8_t>(DType::kU8, {2, 1}, shift);
  ModelConfig config = ConfigWith(R"({"quant_method": "quanto", "weights": "int4"})", DType::kF32);
  config.hidden_size = 2;
  const auto codec = *CodecFor(config);
  const auto decoded = codec->Decode(MemoryModule(stored));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_THAT(Dequantize(*decoded), testing::ElementsAre(0, 1, -12, -8));
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
}

// Rows of 128 columns may be a whole matrix or groups of a wider one.
TEST(Quanto, ThePackedWidthComesFromTheModelOrTheConfig) {
  const auto recipe = *MakeRecipe("quanto", {{"weights", "int4"}});
  Tensor weight = MakeTensor(DType::kF32, {4, 256});
  const MemoryModule module(QuantizeAndEncode(*recipe, weight));
  const auto without =
      *CodecFor(ConfigWith(R"({"quant_method": "quanto", "weights": "int4"})", DType::kF32));
  const auto status = without->Decode(module).status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"shape\": [out, in]"));

  ModuleInfo info;
  info.rows = 4;
  info.cols = 256;
  const auto with = *CodecFor(ConfigWith(recipe->QuantizationConfigFor(ModelConfig(), {info}), {}));
  EXPECT_EQ(with->MatrixShape(module).value(), (Shape{4, 256}));

  ModelConfig wrong = ModelOf(R"({"quant_method": "quanto", "weights": "int4"})", weight);
  wrong.hidden_size = 192;
  const auto misfit = (*CodecFor(wrong))->Decode(module).status();
  EXPECT_EQ(misfit.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(misfit.message()), HasSubstr("8 groups of 128"));
}

TEST(Quanto, TheMapSaysWhichModulesHaveWhichType) {
  const auto text = QuantoConfigOfMap(
      absl::StrCat("{\"", kModule, "\": {\"weights\": \"qint8\", \"activations\": \"none\"}}"));
  ASSERT_TRUE(text.ok()) << text.status();
  const auto codec = *CodecFor(ConfigWith(*text, DType::kF32));
  const auto recipe = *MakeRecipe("quanto", {});
  const TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kF32, {3, 5}));
  EXPECT_TRUE(codec->Decode(MemoryModule(stored)).ok());
  const auto unlisted = codec->Decode(MemoryModule(stored, "lm_head")).status();
  EXPECT_THAT(std::string(unlisted.message()), HasSubstr("lm_head.weight._scale"));
  EXPECT_THAT(std::string(unlisted.message()), HasSubstr("does not list"));

  TensorMap float8 = stored;
  float8["weight._data"].dtype = DType::kF8E4M3;
  EXPECT_THAT(std::string(codec->Decode(MemoryModule(float8)).status().message()),
              HasSubstr("expected I8"));

  const TensorMap unfrozen = {{"weight", MakeTensor(DType::kF32, {3, 5})}};
  EXPECT_TRUE(codec->IsQuantized(MemoryModule(unfrozen)));
  EXPECT_FALSE(codec->IsQuantized(MemoryModule(unfrozen, "lm_head")));
  EXPECT_THAT(std::string(codec->Decode(MemoryModule(unfrozen)).status().message()),
              HasSubstr("freeze()"));
}

TEST(Quanto, RefusesMapsThatItCannotRead) {
  const auto refused = [](const std::string& map) {
    const auto config = QuantoConfigOfMap(map);
    return config.ok() ? CodecFor(ConfigWith(*config, DType::kF32)).status() : config.status();
  };
  EXPECT_EQ(refused("[]").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused(R"({"a": "qint4"})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused(R"({"a": {"weights": "qint3"}})").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(refused(R"({"a": {"weights": 4}})").code(), StatusCode::kInvalidArgument);
  const auto activations = refused(R"({"a": {"weights": "qint8", "activations": "qint8"}})");
  EXPECT_EQ(activations.code(), StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(activations.message()), HasSubstr("quantization_map.a.activations"));
}

// As its own files say: what a checkpoint's map lists, every module by its type.
TEST(Quanto, QuantizesWhatAMapLists) {
  const std::string map =
      R"({"model.layers.0.mlp.up_proj": {"weights": "qint4", "activations": "none"},
          "model.layers.0.mlp.down_proj": {"weights": "qint8", "activations": "none"},
          "model.layers.1.mlp.up_proj": {"weights": "none", "activations": "none"}})";
  const auto recipe = RecipeFromConfig(map);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto module = [](const std::string& name) {
    return ModuleInfo{.name = name, .rows = 64, .cols = 128};
  };
  const auto scheme = [&](const std::string& name) {
    return (*recipe)->SchemeFor(module(name), ModelConfig());
  };
  ASSERT_NE(scheme(kModule), nullptr);
  EXPECT_EQ(scheme(kModule)->Describe(), "qint4 groups of up to 128");
  const std::string down = "model.layers.0.mlp.down_proj";
  ASSERT_NE(scheme(down), nullptr);
  EXPECT_EQ(scheme(down)->Describe(), "qint8 rows");
  EXPECT_EQ(scheme("model.layers.1.mlp.up_proj"), nullptr);
  EXPECT_EQ(scheme("lm_head"), nullptr);

  const auto files = (*recipe)->ConfigFiles({module(kModule), module(down)});
  nlohmann::json listed = nlohmann::json::parse(map);
  listed.erase("model.layers.1.mlp.up_proj");
  EXPECT_EQ(nlohmann::json::parse(files.at("quanto_qmap.json")), listed);
  // A matrix alone has one type.
  const auto config =
      ParseQuantoConfig((*recipe)->QuantizationConfigFor(ModelConfig(), {module(down)}));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->weights->name, "qint8");
  EXPECT_EQ(config->shape, (Shape{64, 128}));
}

TEST(Quanto, OptionsMustAgree) {
  EXPECT_TRUE(MakeRecipe("quanto", {{"bits", "4"}}).ok());
  EXPECT_TRUE(MakeRecipe("quanto", {{"bits", "8"}, {"weights", "float8"}}).ok());
  EXPECT_EQ(MakeRecipe("quanto", {{"bits", "4"}, {"weights", "int8"}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeRecipe("quanto", {{"bits", "3"}}).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeRecipe("quanto", {{"activations", "int8"}}).status().code(),
            StatusCode::kUnimplemented);
  EXPECT_EQ(MakeRecipe("quanto", {{"exclude", "lm_head"}, {"modules_to_not_convert", "a"}})
                .status()
                .code(),
            StatusCode::kInvalidArgument);
}

TEST(Quanto, SelectsModulesAsTransformersOrAsQuantoDoes) {
  ModuleInfo head;
  head.name = "lm_head";
  head.is_output_embedding = true;
  ModuleInfo up;
  up.name = kModule;
  const ModelConfig config;
  const auto automatic = *MakeRecipe("quanto", {});
  EXPECT_EQ(automatic->SchemeFor(head, config), nullptr);
  EXPECT_NE(automatic->SchemeFor(up, config), nullptr);
  const auto excluding = *MakeRecipe("quanto", {{"exclude", "*.up_proj"}});
  EXPECT_NE(excluding->SchemeFor(head, config), nullptr);
  EXPECT_EQ(excluding->SchemeFor(up, config), nullptr);
  const auto including = *MakeRecipe("quanto", {{"include", "model.layers.[0-3].*"}});
  EXPECT_EQ(including->SchemeFor(head, config), nullptr);
  EXPECT_NE(including->SchemeFor(up, config), nullptr);
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/higgs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/hadamard.h"
#include "quantizers/grids/higgs.h"
#include "quantizers/plain_weight.h"
#include "quantizers/quantization_error.h"
#include "quantizers/solvers/rotated_grid.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

constexpr char kModule[] = "model.layers.0.mlp.up_proj";

struct Golden {
  std::string config;
  Tensor weight;
  TensorMap quantized;
  Tensor dequantized;  // rotated
  Tensor x;
  Tensor y;
};

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/higgs/" + variant;
  const nlohmann::json meta = ReadJson(folder + "/meta.json");
  const nlohmann::json& parameters = meta["params"];
  nlohmann::json config = {{"quant_method", "higgs"}, {"tune_metadata", nlohmann::json::object()}};
  for (const char* key : {"bits", "p", "group_size", "hadamard_size"})
    config[key] = parameters[key];
  config["tune_metadata"][kModule] = meta["tune_metadata"];
  Golden golden;
  golden.config = config.dump();
  TensorMap input = ReadSafetensors(folder + "/input.safetensors");
  golden.weight = input["weight"];
  golden.x = input["x"];
  golden.quantized = ReadSafetensors(folder + "/quantized.safetensors");
  TensorMap expected = ReadSafetensors(folder + "/expected.safetensors");
  golden.dequantized = expected["dequant_hadamard"];
  golden.y = expected["y_fp32"];
  return golden;
}

class HiggsGolden : public testing::TestWithParam<std::string> {};

TEST_P(HiggsGolden, QuantizesToUpstreamsBytes) {
  const Golden golden = Load(GetParam());
  const auto recipe = RecipeFromConfig(golden.config);
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(Difference(QuantizeAndEncode(**recipe, golden.weight, kModule), golden.quantized), "");
}

TEST_P(HiggsGolden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const auto codec = CodecFor(ConfigWith(golden.config, golden.weight.dtype));
  ASSERT_TRUE(codec.ok()) << codec.status();
  const MemoryModule module(golden.quantized, kModule);
  ASSERT_TRUE((*codec)->IsQuantized(module));
  EXPECT_EQ(*(*codec)->MatrixShape(module), golden.weight.shape);
  const auto decoded = (*codec)->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
}

// The plain weight undoes the rotation: upstream's rotated inputs times rotated weights, to the
// rounding of float32 sums.
TEST_P(HiggsGolden, PlainWeightsMultiplyAsUpstream) {
  const Golden golden = Load(GetParam());
  const auto codec = *CodecFor(ConfigWith(golden.config, golden.weight.dtype));
  const auto decoded = codec->Decode(MemoryModule(golden.quantized, kModule));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const Tensor plain = ToPlain(*decoded, DType::kF32);
  double error = 0, norm = 0;
  for (int64_t t = 0; t < golden.x.shape[0]; ++t) {
    for (int64_t row = 0; row < decoded->rows; ++row) {
      double sum = 0;
      for (int64_t c = 0; c < decoded->cols; ++c) {
        sum += static_cast<double>(LoadFloat(plain, row * decoded->cols + c)) *
               LoadFloat(golden.x, t * decoded->cols + c);
      }
      const double expected = LoadFloat(golden.y, t * decoded->rows + row);
      error += (sum - expected) * (sum - expected);
      norm += expected * expected;
    }
  }
  EXPECT_LT(std::sqrt(error / norm), 1e-5);
  EXPECT_LT(RelativeError(golden.weight, *decoded), 0.4);
}

INSTANTIATE_TEST_SUITE_P(Upstream, HiggsGolden,
                         testing::ValuesIn(GoldenVariants("higgs", "linear-")));

// The packings of every width and tile hold every code, also at sizes without golden data.
TEST(Flute, PacksAndUnpacks) {
  std::mt19937 random(3);
  for (const int bits : {2, 3, 4}) {
    for (const int tile : {32, 64}) {
      const FlutePacking packing{bits, tile};
      const int64_t rows = 2 * packing.row_multiple(), cols = 6;
      std::vector<uint8_t> codes(rows * cols);
      for (uint8_t& code : codes) code = static_cast<uint8_t>(random() % (1 << bits));
      const std::vector<uint16_t> words = PackFlute(packing, codes, rows, cols);
      EXPECT_EQ(static_cast<int64_t>(words.size()), packing.word_rows(rows) * cols);
      EXPECT_EQ(UnpackFlute(packing, words, rows, cols), codes) << bits << " " << tile;
    }
  }
  EXPECT_EQ(FluteTile(4, 0), 64);
  EXPECT_EQ(FluteTile(4, 16), 32);
  EXPECT_EQ(FluteTile(4, 48), 64);
  EXPECT_EQ(FluteTile(4, 143), 32);
  EXPECT_EQ(FluteTile(4, 144), -1);
  EXPECT_EQ(FluteTile(2, 3), 64);
  EXPECT_EQ(FluteTile(2, 4), 32);
  EXPECT_EQ(FluteTile(2, 36), -1);
}

// The map of the plane finds what a comparison with all points finds, near and far.
TEST(RotatedGrid, FindsTheNearestOfAllPoints) {
  const std::span<const float> grid = HiggsGrid(4, 2);
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> values(64 * 128);
  for (float& value : values) value = normal(random);
  values[7] = 3;  // spreads over its block: far from normal
  Tensor weight = MakeTensor(DType::kF32, {64, 128});
  StoreFloats(DType::kF32, values.data(), 64 * 128, weight.bytes.data());
  const auto quantized = QuantizeRotatedGrid(weight, {grid, 2, 128, 64});
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  for (int64_t row = 0; row < 64; ++row) {
    float* line = values.data() + row * 128;
    double square = 0;
    for (int c = 0; c < 128; ++c) square += line[c] * line[c];
    HadamardTransform(line, 128);
    for (int c = 0; c < 128; c += 2) {
      double best = 1e30;
      int nearest = 0;
      for (int i = 0; i < 256; ++i) {
        const double dx = line[c] / std::sqrt(square) - grid[2 * i];
        const double dy = line[c + 1] / std::sqrt(square) - grid[2 * i + 1];
        if (dx * dx + dy * dy < best - 1e-6) {
          best = dx * dx + dy * dy;
          nearest = i;
        }
      }
      EXPECT_EQ(quantized->codes[row * 64 + c / 2], nearest);
    }
  }
}

TEST(RotatedGrid, BlocksOfZerosAndOfHugeValues) {
  Tensor weight = MakeTensor(DType::kBF16, {1, 128});
  std::vector<float> values(128, 0.0f);
  values[70] = 3e38f;
  StoreFloats(DType::kBF16, values.data(), 128, weight.bytes.data());
  const auto quantized = QuantizeRotatedGrid(weight, {HiggsGrid(4, 1), 1, 64, 64});
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  EXPECT_EQ(quantized->scale[0], 0);
  EXPECT_EQ(quantized->codes[0], 0);
  EXPECT_TRUE(std::isfinite(quantized->scale[1]));
  EXPECT_GT(quantized->scale[1], 1e37f);
  const std::vector<float> rotated = Dequantize(*quantized);
  for (int c = 0; c < 64; ++c) EXPECT_EQ(rotated[c], 0);
  for (int c = 64; c < 128; ++c) EXPECT_TRUE(std::isfinite(rotated[c]));
}

TEST(HiggsShapes, AreRefusedBeforeAnythingIsWritten) {
  const auto check = [](const std::map<std::string, std::string>& options, int64_t rows,
                        int64_t cols) {
    ModuleInfo info;
    info.name = kModule;
    info.rows = rows;
    info.cols = cols;
    return (*MakeRecipe("higgs", options))->SchemeFor(info, ModelConfig())->CheckShape(rows, cols);
  };
  EXPECT_TRUE(check({}, 128, 512).ok());
  EXPECT_THAT(check({}, 128, 256).message(), HasSubstr("hadamard_size 512 does not divide"));
  EXPECT_TRUE(check({{"hadamard_size", "256"}}, 128, 256).ok());
  EXPECT_THAT(check({}, 64, 512).message(), HasSubstr("multiples of 128, found 64"));
  EXPECT_THAT(check({{"bits", "2"}}, 128, 512).message(), HasSubstr("multiples of 256"));
  EXPECT_THAT(check({{"bits", "3"}}, 256, 512).message(), HasSubstr("multiples of 512"));
}

TEST(HiggsConfig, RefusesWrongNumbers) {
  const std::string tuning = R"("M": 1, "N": 128, "K": 512, "dtype": "torch.float16")";
  const auto with_tuning = [](const std::string& entry) {
    return "\"tune_metadata\": {\"a.b\": {" + entry + "}}";
  };
  for (const auto& [keys, message] : std::vector<std::pair<std::string, std::string>>{
           {R"("bits": 5)", "2 to 4"},
           {R"("bits": "4")", "2 to 4"},
           {R"("p": 0)", "1 to 2"},
           {R"("group_size": 0)", "group_size"},
           {R"("group_size": 32)", "64, 128 or 256"},
           {R"("hadamard_size": 384)", "power of two"},
           {R"("hadamard_size": 128)", "multiple of group_size 256"},
           {R"("hadamard_size": 9223372036854775808)", "hadamard_size"},
           {R"("modules_to_not_convert": ["((("])", "invalid"},
           {R"("tune_metadata": 4)", "expected an object"},
           {with_tuning(tuning), "template_id"},
           {with_tuning(tuning + R"(, "template_id": 144)"), "a template of flute"},
           {with_tuning(tuning + R"(, "template_id": 16, "num_bits": 3)"), "num_bits"},
           {with_tuning(tuning + R"(, "template_id": 16, "group_size": 64)"), "group_size"},
           {with_tuning(R"("N": 1, "K": 1, "template_id": 1, "dtype": "torch.float32")"), "dtype"},
           {with_tuning(R"("N": 0, "K": 1, "template_id": 1, "dtype": "torch.float16")"), "N"}}) {
    const std::string json = "{\"quant_method\": \"higgs\", " + keys + "}";
    EXPECT_EQ(RecipeFromConfig(json).status().code(), StatusCode::kInvalidArgument) << keys;
    EXPECT_THAT(RecipeFromConfig(json).status().message(), HasSubstr(message));
    EXPECT_EQ(CodecFor(ConfigWith(json, DType::kF16)).status().code(),
              StatusCode::kInvalidArgument);
  }
}

// Transformers does not load a layer without its entry; other keys of a given config are kept.
TEST(HiggsConfig, NamesThePackingOfEveryLayer) {
  const auto recipe = RecipeFromConfig(R"({"quant_method": "higgs", "hadamard_size": 256,
      "tune_metadata": {"x.fc1": {"M": 4, "N": 256, "K": 512, "num_bits": 4, "group_size": 256,
      "num_sms": 108, "dtype": "torch.bfloat16", "device": "cuda:0", "template_id": 0}}})");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ((*recipe)->InputDType(), DType::kBF16);
  ModuleInfo given, other;
  given.name = "x.fc1";
  given.rows = 256;
  given.cols = 512;
  other.name = "x.fc2";
  other.rows = 128;
  other.cols = 256;
  const auto written =
      nlohmann::json::parse((*recipe)->QuantizationConfigFor(ModelConfig(), {given, other}));
  EXPECT_EQ(written["tune_metadata"]["x.fc1"]["template_id"], 0);
  EXPECT_EQ(written["tune_metadata"]["x.fc1"]["num_sms"], 108);
  EXPECT_EQ(written["tune_metadata"]["x.fc2"]["template_id"], 16);
  EXPECT_EQ(written["tune_metadata"]["x.fc2"]["N"], 128);
  EXPECT_EQ(written["tune_metadata"]["x.fc2"]["dtype"], "torch.bfloat16");
  EXPECT_NE((*recipe)->SchemeFor(given, ModelConfig()), (*recipe)->SchemeFor(other, ModelConfig()));
}

struct Broken {
  const char* what;
  std::function<void(TensorMap&)> spoil;
  std::string message;
};

TEST(BrokenTensors, Higgs) {
  const Golden golden = Load("linear-2bit-p2-g64-h128-tile64");
  const auto codec = *CodecFor(ConfigWith(golden.config, DType::kF16));
  const auto replace = [](const char* name, DType dtype, const Shape& shape) {
    return [=](TensorMap& tensors) { tensors[name] = MakeTensor(dtype, shape); };
  };
  const auto first_is_nan = [](const char* name) {
    return [=](TensorMap& tensors) { tensors[name].bytes[1] = std::byte{0x7e}; };
  };
  const std::vector<Broken> cases = {
      {"no scales", [](TensorMap& t) { t.erase("scales"); }, "missing"},
      {"no tables", [](TensorMap& t) { t.erase("tables"); }, "missing"},
      {"no pairs", [](TensorMap& t) { t.erase("tables2"); }, "missing"},
      {"odd rows", replace("weight", DType::kI16, {63, 128}), "multiple of 2"},
      {"other rows", replace("weight", DType::kI16, {32, 128}), "tune_metadata says N 512, K 128"},
      {"other columns", replace("weight", DType::kI16, {64, 64}), "tune_metadata says"},
      {"rank 1", replace("weight", DType::kI16, {64}), "a matrix"},
      {"another dtype", replace("weight", DType::kI32, {64, 128}), "expected I16"},
      {"too few scales", replace("scales", DType::kF16, {512, 1}), "[512, 2]"},
      {"float32 scales", replace("scales", DType::kF32, {512, 2}), "expected F16 or BF16"},
      {"NaN scale", first_is_nan("scales"), "element 0 is not a finite number"},
      {"NaN point", first_is_nan("tables2"), "element 0 is not a finite number"},
      {"table of zeros", replace("tables", DType::kF16, {4}), "expected 0, 1, 2"},
      {"short table", replace("tables", DType::kF16, {3}), "[4]"},
      {"dtypes differ", replace("tables", DType::kBF16, {4}), "expected F16"}};
  for (const Broken& broken : cases) {
    SCOPED_TRACE(broken.what);
    TensorMap tensors = golden.quantized;
    broken.spoil(tensors);
    const absl::Status status = codec->Decode(MemoryModule(tensors, kModule)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(kModule));
    EXPECT_THAT(std::string(status.message()), HasSubstr(broken.message));
  }
  const auto elsewhere = codec->Decode(MemoryModule(golden.quantized, "another.module"));
  EXPECT_THAT(std::string(elsewhere.status().message()), HasSubstr("tune_metadata has no entry"));
}

}  // namespace
}  // namespace quantd

// AWQ's configurations, layouts and options: what is read, what is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/pipeline.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

absl::StatusOr<AwqConfig> Parse(const std::string& rest) {
  return ParseAwqConfig("{\"quant_method\": \"awq\"" + (rest.empty() ? rest : ", " + rest) + "}");
}

TEST(AwqConfigs, ReadsEverySpellingOfAVersion) {
  for (const auto& [name, version] :
       std::map<std::string, AwqVersion>{{"GEMM", AwqVersion::kGemm},
                                         {"gemm", AwqVersion::kGemm},
                                         {"exllama", AwqVersion::kGemm},
                                         {"ExLlamaV2", AwqVersion::kGemm},
                                         {"ipex", AwqVersion::kGemm},
                                         {"GEMV", AwqVersion::kGemv},
                                         {"gemv_fast", AwqVersion::kGemvFast},
                                         {"llm-awq", AwqVersion::kGemvFast}}) {
    for (const char* key : {"version", "format", "checkpoint_format"}) {
      const auto config = Parse(absl::StrCat("\"", key, "\": \"", name, "\""));
      ASSERT_TRUE(config.ok()) << config.status();
      EXPECT_EQ(config->version, version);
    }
  }
  EXPECT_EQ(Parse("")->version, AwqVersion::kGemm);
  const auto old = Parse(R"("w_bit": 4, "q_group_size": 64, "version": "GEMV")");
  EXPECT_EQ(old->group_size, 64);
}

TEST(AwqConfigs, ReadsTheFileOfOldCheckpoints) {
  const auto text =
      AwqConfigOfFile(R"({"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"})");
  ASSERT_TRUE(text.ok()) << text.status();
  const auto config = ParseAwqConfig(*text);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->group_size, 64);
  EXPECT_EQ(AwqConfigOfFile("[]").status().code(), StatusCode::kInvalidArgument);
}

TEST(AwqConfigs, RefusesWhatCannotBe) {
  for (const auto& [rest, message] : std::vector<std::pair<std::string, std::string>>{
           {R"("bits": 9)", "bits: found the number 9, expected an integer from 2 to 8"},
           {R"("bits": 1)", "2 to 8"},
           {R"("group_size": 0)", "group_size"},
           {R"("group_size": -2)", "group_size"},
           {R"("version": "cuda")", "gemm, gemv"},
           {R"("version": "gemm", "format": "gemv")", "the layout of the other keys, gemm"},
           {R"("version": "gemv", "bits": 8)", "the only width of gemv"},
           {R"("version": "marlin")", "zero_point"},
           {R"("pack_dtype": "int16")", "int32"},
           {R"("modules_to_not_convert": [""])", "empty"},
           {R"("modules_to_not_convert": "lm_head")", "a list of strings"}}) {
    const auto config = Parse(rest);
    EXPECT_EQ(config.status().code(), StatusCode::kInvalidArgument) << rest;
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
  }
}

// A matrix [rows, cols] whose codes count up, in a layout.
QuantizedTensor Counting(AwqVersion version, int bits, int64_t group, int64_t rows, int64_t cols,
                         bool interleaved) {
  QuantizedTensor weight;
  weight.rows = rows;
  weight.cols = cols;
  weight.dequantized_dtype = DType::kF16;
  weight.grid = UniformGrid(bits, version == AwqVersion::kMarlin);
  weight.block = {.rows = 1, .cols = group};
  weight.scale_dtype = DType::kF16;
  for (int64_t i = 0; i < rows * cols; ++i) {
    weight.codes.push_back(static_cast<uint8_t>((i * 7 + i / 5) % (1 << bits)));
  }
  for (int64_t i = 0; i < rows * cols / group; ++i) {
    weight.scale.push_back(std::ldexp(1.0f, -static_cast<int>(i % 8)));
    if (version == AwqVersion::kGemvFast) weight.offset.push_back(-static_cast<float>(i % 9));
    if (version == AwqVersion::kGemm || version == AwqVersion::kGemv) {
      weight.zero_point.push_back(static_cast<float>(i % (1 << bits)));
    }
  }
  MarkAwq(version, interleaved, &weight);
  return weight;
}

TEST(AwqLayouts, HoldEveryWidthAndGroup) {
  struct Case {
    std::string config;
    AwqVersion version;
    int bits;
    int64_t group, rows, cols;
    bool interleaved = true;
  };
  const std::string auto_round = R"(, "provider": "auto-round")";
  for (const Case& c : std::vector<Case>{
           {R"("group_size": -1)", AwqVersion::kGemm, 4, 24, 8, 24},
           {R"("bits": 2, "group_size": 16)", AwqVersion::kGemm, 2, 16, 5, 48, false},
           {R"("bits": 3, "group_size": 16)", AwqVersion::kGemm, 3, 16, 7, 48, false},
           {R"("bits": 5, "group_size": 16)", AwqVersion::kGemm, 5, 16, 32, 16, false},
           {R"("bits": 7, "group_size": 16)" + auto_round, AwqVersion::kGemm, 7, 16, 32, 16},
           {R"("bits": 8, "group_size": 32)", AwqVersion::kGemm, 8, 32, 3, 64, false},
           {R"("version": "gemv", "group_size": 64)", AwqVersion::kGemv, 4, 64, 3, 192},
           {R"("version": "gemv", "group_size": 256)", AwqVersion::kGemv, 4, 256, 2, 2560},
           {R"("version": "gemv_fast", "group_size": 32)", AwqVersion::kGemvFast, 4, 32, 8, 320},
           {R"("version": "marlin", "group_size": -1, "zero_point": false)", AwqVersion::kMarlin, 4,
            32, 64, 32}}) {
    SCOPED_TRACE(c.config);
    const QuantizedTensor weight =
        Counting(c.version, c.bits, c.group, c.rows, c.cols, c.interleaved);
    ASSERT_TRUE(Validate(weight).ok()) << Validate(weight);
    const AwqCodec codec(*Parse(c.config));
    const TensorMap stored = MemoryModule::ToMap(*codec.Encode(weight));
    EXPECT_EQ(*codec.MatrixShape(MemoryModule(stored)), (Shape{c.rows, c.cols}));
    const auto decoded = codec.Decode(MemoryModule(stored));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->codes, weight.codes);
    EXPECT_EQ(decoded->scale, weight.scale);
    EXPECT_EQ(decoded->zero_point, weight.zero_point);
    EXPECT_EQ(decoded->offset, weight.offset);
    EXPECT_EQ(Difference(MemoryModule::ToMap(*codec.Encode(*decoded)), stored), "");
  }
}

// With `dynamic` in the config a module's own shapes say its width and group.
TEST(AwqLayouts, ModulesMayVary) {
  const AwqCodec codec(*Parse(R"("dynamic": {"+:.*down.*": {"bits": 8, "group_size": 16}})"));
  const QuantizedTensor weight = Counting(AwqVersion::kGemm, 8, 16, 32, 48, false);
  const auto decoded = codec.Decode(MemoryModule(MemoryModule::ToMap(*codec.Encode(weight))));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->codes, weight.codes);
  EXPECT_EQ(decoded->block.cols, 16);
}

TEST(AwqLayouts, Bf16ScalesComeBack) {
  QuantizedTensor weight = Counting(AwqVersion::kGemm, 4, 16, 8, 16, true);
  weight.scale_dtype = DType::kBF16;
  for (float& scale : weight.scale) scale = 0.50390625f;  // 129/256: 8 bits
  const AwqCodec codec(*Parse(R"("group_size": 16)"));
  const TensorMap stored = MemoryModule::ToMap(*codec.Encode(weight));
  EXPECT_EQ(stored.at("scales").dtype, DType::kBF16);
  const auto decoded = codec.Decode(MemoryModule(stored));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->dequantized_dtype, DType::kF16);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec.Encode(*decoded)), stored), "");
}

TEST(AwqMethod, WritesTheConfigOfAutoAwq) {
  const auto recipe = *MakeRecipe("awq", {{"modules_to_not_convert", "v_proj"}});
  EXPECT_EQ(nlohmann::json::parse(recipe->QuantizationConfig(ModelConfig())),
            nlohmann::json::parse(R"({"quant_method": "awq", "bits": 4, "group_size": 128,
                "zero_point": true, "version": "gemm", "modules_to_not_convert": ["v_proj"]})"));
  ModuleInfo info;
  info.layer = 0;
  info.name = "model.layers.0.self_attn.v_proj";
  EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
  info.name = "model.layers.0.mlp.up_proj";
  EXPECT_NE(recipe->SchemeFor(info, ModelConfig()), nullptr);
  info.name = "lm_head";
  info.layer = -1;
  EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
}

TEST(AwqMethod, RefusesWhatNoLayoutHolds) {
  const auto status = [](const std::map<std::string, std::string>& options) {
    return std::string(MakeRecipe("awq", options).status().message());
  };
  EXPECT_THAT(status({{"version", "gemv"}, {"bits", "8"}}), HasSubstr("gemv stores 4"));
  EXPECT_THAT(status({{"version", "marlin"}}), HasSubstr("zero_point"));
  EXPECT_THAT(status({{"group_size", "0"}}), HasSubstr("group_size"));
  EXPECT_THAT(status({{"max_calib_samples", "0"}}), HasSubstr("max_calib_samples"));
  const auto recipe = *MakeRecipe("awq", {});
  const auto none =
      QuantizeMatrix(MakeTensor(DType::kF16, {8, 128}), nullptr, *recipe, nullptr).status();
  EXPECT_EQ(none.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(none.message()), HasSubstr("calibration"));
}

TEST(AwqTensors, WrongOnesAreRefusedByName) {
  const auto check = [](const std::string& rest, TensorMap tensors, const std::string& message) {
    const AwqCodec codec(*Parse(rest));
    const MemoryModule module(std::move(tensors));
    EXPECT_TRUE(codec.IsQuantized(module));
    const absl::Status status = codec.Decode(module).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.layers.0.mlp.up_proj."));
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  const AwqCodec writer{AwqConfig{}};
  const TensorMap gemm =
      MemoryModule::ToMap(*writer.Encode(Counting(AwqVersion::kGemm, 4, 16, 16, 64, true)));
  const std::string g16 = R"("group_size": 16)";
  const auto with = [](TensorMap tensors, const std::string& name, DType dtype, Shape shape) {
    tensors[name] = MakeTensor(dtype, std::move(shape));
    return tensors;
  };
  const auto without = [](TensorMap tensors, const std::string& name) {
    tensors.erase(name);
    return tensors;
  };
  check(g16, without(gemm, "qweight"), "ScaledActivation");
  check(g16, without(gemm, "qzeros"), "qzeros: the tensor is missing");
  check(g16, without(gemm, "scales"), "scales: the tensor is missing");
  check(g16, with(gemm, "weight", DType::kF16, {16, 64}), "one of them");
  check(g16, with(gemm, "qweight", DType::kI32, {64, 3}), "expected 2");
  check(g16, with(gemm, "qweight", DType::kI32, {128}), "a matrix");
  check(g16, with(gemm, "qweight", DType::kI32, {0, 2}), "a matrix");
  check(g16, with(gemm, "qweight", DType::kF32, {64, 2}), "expected I32");
  check(g16, with(gemm, "qzeros", DType::kI32, {3, 2}), "expected I32 [4, 2]");
  check(g16, with(gemm, "scales", DType::kF16, {3, 16}), "[4, 16]");
  check(g16, with(gemm, "scales", DType::kI32, {4, 16}), "expected F16");
  check(R"("group_size": 48)", gemm, "expected a multiple of 48");
  check(R"("bits": 8, "group_size": 16)", gemm, "expected 4: 8 bits");
  TensorMap nan = gemm;
  nan["scales"].bytes[1] = std::byte{0x7e};
  check(g16, nan, "element 0 is not a finite number");
  const std::string gemv = R"("version": "gemv", "group_size": 64)";
  TensorMap rows =
      MemoryModule::ToMap(*writer.Encode(Counting(AwqVersion::kGemv, 4, 64, 2, 192, true)));
  check(R"("version": "gemv", "group_size": 16)", rows, "found groups of 16");
  check(gemv, with(rows, "scales", DType::kF16, {2, 8}), "[2, 16]");
  rows["scales"].bytes[7] = std::byte{0x3c};
  check(gemv, rows, "padding");
  check(R"("version": "gemv_fast", "group_size": 32)",
        {{"qweight", MakeTensor(DType::kI16, {2, 96})}}, "expected a multiple of 64");
  check(R"("version": "marlin", "zero_point": false)",
        {{"qweight", MakeTensor(DType::kI32, {8, 64})}}, "expected a multiple of 64");
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/awq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/pipeline.h"
#include "quantizers/solvers/activation_aware.h"
#include "quantizers/solvers/half_products.h"
#include "quantizers/solvers/rounding.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

nlohmann::json ConfigOf(const nlohmann::json& params) {
  return {{"quant_method", "awq"},
          {"bits", 4},
          {"group_size", params["group_size"]},
          {"zero_point", params["zero_point"]},
          {"version", params["version"]}};
}

class AwqGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string Folder() const { return GoldenRoot() + "/awq/" + GetParam(); }
  TensorMap Read(const std::string& file) const {
    const std::string path = Folder() + "/" + file + ".safetensors";
    TensorMap tensors;
    if (std::filesystem::exists(path)) tensors = ReadSafetensors(path);
    if (file == "quantized") tensors.erase("bias");
    return tensors;
  }
  std::string Config() const {
    return ConfigOf(ReadJson(Folder() + "/meta.json")["params"]).dump();
  }
};

TEST_P(AwqGolden, DecodesAndEncodesToTheSameBytes) {
  const auto codec = *CodecFor(ConfigWith(Config(), DType::kF16));
  const TensorMap stored = Read("quantized");
  const MemoryModule module(stored);
  ASSERT_TRUE(codec->IsQuantized(module));
  const auto decoded = codec->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
  const TensorMap expected = Read("expected");
  if (expected.contains("dequant")) {
    EXPECT_EQ(DequantizedDifference(*decoded, expected.at("dequant")), "");
  }
}

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(NumElements(tensor.shape)));
  LoadFloats(tensor, 0, NumElements(tensor.shape), values.data());
  return values;
}

// What a Linear of a version stores of a quantized matrix.
TensorMap Stored(AwqVersion version, QuantizedTensor weight) {
  SpellAwq(version, &weight);
  EXPECT_TRUE(Validate(weight).ok()) << Validate(weight);
  return MemoryModule::ToMap(*AwqCodec(AwqConfig()).Encode(weight));
}

// Upstream's own steps: factors, limits, rounding. The sums behind a limit are in another order,
// which may decide between two of nearly the same error.
TEST_P(AwqGolden, SearchesAsUpstream) {
  const TensorMap input = Read("input");
  const TensorMap expected = Read("expected");
  if (!input.contains("weight")) GTEST_SKIP() << "the variant has no input";
  const nlohmann::json params = ReadJson(Folder() + "/meta.json")["params"];
  const AwqSpec spec = {.group_size = params["group_size"], .zero_point = params["zero_point"]};
  HalfMatrix weight = *ToHalfMatrix(input.at("weight"));
  std::vector<float> samples;
  if (input.contains("X")) samples = Floats(input.at("X"));
  if (expected.contains("awq_scale")) {
    const std::vector<float> theirs = Floats(expected.at("awq_scale"));
    const auto ours = SearchFactors(weight, spec, samples, /*duo_scaling=*/true);
    ASSERT_TRUE(ours.ok()) << ours.status();
    EXPECT_EQ(*ours, theirs);
    ScaleColumns(theirs, &weight);
    for (size_t i = 0; i < samples.size(); ++i) {
      samples[i] = RoundTo(DType::kF16, samples[i] / theirs[i % theirs.size()]);
    }
  }
  if (expected.contains("clip_max")) {
    const std::vector<float> theirs = Floats(expected.at("clip_max"));
    const auto ours = SearchClip(weight, spec, samples, nullptr);
    ASSERT_TRUE(ours.ok()) << ours.status();
    int64_t different = 0;
    for (size_t i = 0; i < theirs.size(); ++i) different += (*ours)[i] != theirs[i];
    EXPECT_LE(different * 100, static_cast<int64_t>(theirs.size())) << different;
    ApplyClip(spec, theirs, &weight);
  }
  const auto rounded = QuantizeAwq(weight, spec);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_EQ(Difference(Stored(*AwqVersionNamed(params["version"].get<std::string>()), *rounded),
                       Read("quantized")),
            "");
}

// Through the door for one matrix; column factors have no place there.
TEST_P(AwqGolden, QuantizesToUpstreamsBytes) {
  const TensorMap input = Read("input");
  if (!input.contains("weight") || Read("expected").contains("awq_scale")) {
    GTEST_SKIP() << "the variant has no input, or scaled columns";
  }
  const nlohmann::json params = ReadJson(Folder() + "/meta.json")["params"];
  const bool clips = params["search"] == "clip";
  const auto recipe = MakeRecipe("awq", {{"group_size", params["group_size"].dump()},
                                         {"zero_point", params["zero_point"].dump()},
                                         {"version", params["version"].get<std::string>()},
                                         {"apply_scale", "false"},
                                         {"apply_clip", clips ? "true" : "false"}});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  std::optional<TensorView> calibration;
  if (clips) calibration = input.at("X").view();
  const auto quantized =
      QuantizeMatrix(input.at("weight"), calibration ? &*calibration : nullptr, **recipe, nullptr);
  ASSERT_TRUE(quantized.ok()) << quantized.status();
  EXPECT_EQ(Difference(MemoryModule::ToMap(quantized->tensors), Read("quantized")), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, AwqGolden, testing::ValuesIn(GoldenVariants("awq", "linear-")));

// The arithmetic of the searches rounds as the conversion to float16 does.
TEST(InFloat16, RoundsEveryKindOfNumber) {
  for (uint64_t bits = 0; bits <= 0xffffffffu; bits += 4093) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    const float expected = FloatFromF16(F16FromFloat(value));
    const float found = InFloat16::Round(value);
    if (std::isnan(value)) {
      ASSERT_TRUE(std::isnan(found)) << bits;
    } else {
      ASSERT_EQ(std::bit_cast<uint32_t>(found), std::bit_cast<uint32_t>(expected)) << value;
    }
  }
  for (const float value : {65503.0f, 65519.99f, 65520.0f, 0x1p-24f, 0x1p-25f, 0x1.8p-25f, 0x1p-14f,
                            0x1.ffep-15f, 0x1.fffp-15f}) {
    EXPECT_EQ(InFloat16::Round(-value), FloatFromF16(F16FromFloat(-value))) << value;
  }
}

// Every instruction set gives the bits that the definition gives.
TEST(HalfProducts, AreTheSameInEveryVariant) {
  constexpr int64_t kStride = 140;
  std::vector<float> x, w;
  for (int i = 0; i < 5 * kStride; ++i) {
    x.push_back(
        InFloat16::Round(std::sin(static_cast<float>(i * i)) * std::ldexp(1.0f, i % 24 - 14)));
    w.push_back(InFloat16::Round(std::cos(static_cast<float>(3 * i * i)) * 0.1f));
  }
  for (const int64_t count : {1, 8, 16, 33, 128}) {
    for (const HalfProducts* const* variant = AllHalfProducts(); *variant != nullptr; ++variant) {
      float sums[5];
      (*variant)->sums(x.data(), kStride, 5, w.data(), count, sums);
      for (int64_t t = 0; t < 5; ++t) {
        float lanes[16] = {};
        for (int64_t i = 0; i < count; ++i) {
          lanes[i % 16] += FloatFromF16(F16FromFloat(x[t * kStride + i] * w[i]));
        }
        for (int width = 8; width > 0; width /= 2) {
          for (int k = 0; k < width; ++k) lanes[k] += lanes[k + width];
        }
        EXPECT_EQ(sums[t], FloatFromF16(F16FromFloat(lanes[0]))) << (*variant)->isa << " " << count;
      }
    }
  }
}

TEST(HalfProducts, RoundsAsItsDefinitionInEveryVariant) {
  const auto half = [](float v) { return InFloat16::Round(v); };
  std::vector<float> values, factors;
  for (int i = 0; i < 77; ++i) {
    values.push_back(half(std::sin(static_cast<float>(i * i)) * std::ldexp(1.0f, i % 20 - 12)));
    factors.push_back(half(0.01f + std::abs(std::cos(static_cast<float>(i)))));
  }
  const HalfGrid grids[] = {{half(0.013f), 7, 0, 15}, {half(0.2f), 0, -8, 7}, {0x1p-24f, 3, 0, 15}};
  for (const HalfProducts* const* variant = AllHalfProducts(); *variant != nullptr; ++variant) {
    for (const size_t count : {1, 5, 16, 64, 77}) {
      std::vector<float> product(values), quotient(values);
      (*variant)->multiply(factors.data(), static_cast<int64_t>(count), product.data());
      (*variant)->divide(factors.data(), static_cast<int64_t>(count), quotient.data());
      for (size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(product[i], i < count ? half(values[i] * factors[i]) : values[i]);
        EXPECT_EQ(quotient[i], i < count ? half(values[i] / factors[i]) : values[i]);
      }
      for (const HalfGrid& grid : grids) {
        std::vector<float> rounded(values);
        (*variant)->round(grid, static_cast<int64_t>(count), rounded.data());
        for (size_t i = 0; i < count; ++i) {
          const float step = std::clamp(half(values[i] / grid.scale), -0x1p20f, 0x1p20f);
          const float code = std::clamp(RoundHalfEven(step) + grid.zero, grid.least, grid.most);
          EXPECT_EQ(rounded[i], half((code - grid.zero) * grid.scale))
              << (*variant)->isa << " " << values[i];
        }
      }
    }
  }
}

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

// How GPTQ layers are spelled, without any golden data.
#include "quantizers/codecs/gptq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/parameter_names.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

std::unique_ptr<Codec> CodecOf(const nlohmann::json& config) {
  auto codec = CodecFor(ConfigWith(config.dump(), DType::kBF16));
  EXPECT_TRUE(codec.ok()) << codec.status();
  return codec.ok() ? *std::move(codec) : nullptr;
}

// A layer of 64 outputs and 96 inputs in groups of 32, every tensor made of pseudorandom bits.
TensorMap SomeLayer(int bits, GptqFormat format) {
  const bool planar = format == GptqFormat::kPlanar;
  uint32_t state = 7;
  const auto words = [&state](Shape shape) {
    Tensor tensor = MakeTensor(DType::kI32, shape);
    for (std::byte& byte : tensor.bytes) {
      state = state * 1664525u + 1013904223u;
      byte = static_cast<std::byte>(state >> 24);
    }
    return tensor;
  };
  EXPECT_TRUE(planar || bits != 5);
  TensorMap layer;
  layer["qweight"] = words({96 * bits / 32, 64});
  layer["qzeros"] = words({3, 64 * bits / 32});
  std::vector<float> scales(3 * 64);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = 0.01f * static_cast<float>(i % 17 + 1);
  layer["scales"] = FloatTensor(DType::kF16, {3, 64}, scales);
  std::vector<int32_t> index(96);
  for (int i = 0; i < 96; ++i) index[i] = i / 32;
  layer["g_idx"] = TensorOf<int32_t>(DType::kI32, {96}, index);
  return layer;
}

nlohmann::json SomeConfig(int bits, GptqFormat format) {
  return {{"quant_method", "gptq"},
          {"bits", bits},
          {"group_size", 32},
          {"sym", false},
          {"format", std::string(NameOf(format))},
          {"meta", {{"quantizer", {"gptqmodel:7.7.0"}}}}};
}

void SetIndex(TensorMap& layer, const std::function<int32_t(int)>& group) {
  std::vector<int32_t> index(96);
  for (int i = 0; i < 96; ++i) index[i] = group(i);
  layer["g_idx"] = TensorOf<int32_t>(DType::kI32, {96}, index);
}

// In a bfloat16 model, too.
TEST(GptqCodec, BiasesAreHalves) {
  EXPECT_EQ(CodecOf({{"quant_method", "gptq"}, {"bits", 4}, {"group_size", 32}})->BiasDType(),
            DType::kF16);
}

TEST(GptqCodec, AnyBitsSurviveInEveryWidthAndFormat) {
  for (const GptqFormat format : {GptqFormat::kV1, GptqFormat::kV2, GptqFormat::kPlanar}) {
    for (int bits = 2; bits <= 8; ++bits) {
      if (bits >= 5 && bits <= 7 && format != GptqFormat::kPlanar) continue;
      for (const bool word_zeros : {false, true}) {
        SCOPED_TRACE(testing::Message() << NameOf(format) << " " << bits << " " << word_zeros);
        nlohmann::json config = SomeConfig(bits, format);
        if (!word_zeros) config["meta"].erase("quantizer");
        TensorMap layer = SomeLayer(bits, format);
        SetIndex(layer, [](int i) { return i * 7 % 96 / 32; });
        const auto codec = CodecOf(config);
        const auto decoded = codec->Decode(MemoryModule(layer));
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        EXPECT_TRUE(Validate(*decoded).ok());
        EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), layer), "");
      }
    }
  }
}

TEST(GptqCodec, MislabelledSymmetricFilesAreReadByTheirWords) {
  nlohmann::json config = SomeConfig(4, GptqFormat::kV1);
  config["sym"] = true;
  TensorMap layer = SomeLayer(4, GptqFormat::kV1);
  const auto zero_with = [&](uint32_t word, const char* format) {
    layer["qzeros"] = TensorOf<uint32_t>(DType::kI32, {3, 8}, std::vector<uint32_t>(24, word));
    config["format"] = format;
    const auto codec = CodecOf(config);
    const auto decoded = codec->Decode(MemoryModule(layer));
    EXPECT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), layer), "");
    return decoded->zero_point[0];
  };
  EXPECT_EQ(zero_with(0x77777777u, "gptq"), 8.0f);
  EXPECT_EQ(zero_with(0x88888888u, "gptq"), 8.0f);
  EXPECT_EQ(zero_with(0x88888888u, "gptq_v2"), 8.0f);
  EXPECT_EQ(zero_with(0x77777777u, "gptq_v2"), 8.0f);
  config["sym"] = false;
  EXPECT_EQ(zero_with(0x88888888u, "gptq"), 9.0f);
  EXPECT_EQ(zero_with(0x77777777u, "gptq_v2"), 7.0f);
}

TEST(GptqCodec, GroupIndexIsObeyedWhateverTheConfigSays) {
  nlohmann::json config = SomeConfig(4, GptqFormat::kV2);
  config["desc_act"] = false;
  TensorMap layer = SomeLayer(4, GptqFormat::kV2);
  const auto plain = *CodecOf(config)->Decode(MemoryModule(layer));
  EXPECT_TRUE(plain.input.permutation.empty());
  SetIndex(layer, [](int i) { return i % 3; });
  const auto codec = CodecOf(config);
  const auto mixed = *codec->Decode(MemoryModule(layer));
  const std::vector<float> a = Dequantize(plain), b = Dequantize(mixed);
  // Column 1 is now in group 1.
  const float code = a[1] / plain.scale[0] + plain.zero_point[0];
  EXPECT_NEAR(b[1], (code - mixed.zero_point[1]) * mixed.scale[1], 1e-2);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(mixed)), layer), "");
  layer.erase("g_idx");  // some exporters leave it out where it says nothing
  const auto bare = codec->Decode(MemoryModule(layer));
  ASSERT_TRUE(bare.ok()) << bare.status();
  EXPECT_EQ(Dequantize(*bare), a);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*bare)), layer), "");
}

TEST(GptqCodec, TheLastGroupMayBeShort) {
  nlohmann::json config = SomeConfig(4, GptqFormat::kV1);
  config["group_size"] = 64;
  TensorMap layer = SomeLayer(4, GptqFormat::kV1);
  layer["scales"] = FloatTensor(DType::kF16, {2, 64}, std::vector<float>(128, 0.5f));
  layer["qzeros"] = MakeTensor(DType::kI32, {2, 8});
  for (const int step : {1, 5}) {  // in order, and acted on out of order
    SetIndex(layer, [step](int i) { return i * step % 96 / 64; });
    const auto codec = CodecOf(config);
    const auto decoded = codec->Decode(MemoryModule(layer));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(decoded->block_columns(), 2);
    EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), layer), "");
  }
}

TEST(GptqCodec, BrokenTensorsAreRefusedByName) {
  struct Broken {
    const char* what;
    std::function<void(TensorMap&)> spoil;
    const char* tensor;
    const char* message;
  };
  const auto replace = [](const char* name, DType dtype, Shape shape) {
    return [=](TensorMap& layer) { layer[name] = MakeTensor(dtype, shape); };
  };
  const auto index = [](int at, int32_t value) {
    return [=](TensorMap& layer) { std::memcpy(layer["g_idx"].bytes.data() + 4 * at, &value, 4); };
  };
  const Broken cases[] = {
      {"no scales", [](TensorMap& layer) { layer.erase("scales"); }, "scales", "missing"},
      {"no zeros", [](TensorMap& layer) { layer.erase("qzeros"); }, "qzeros", "missing"},
      {"g_idx 9999", index(5, 9999), "g_idx", "element 5 is 9999, expected a group from 0 to 2"},
      {"g_idx -1", index(95, -1), "g_idx", "element 95 is -1"},
      {"g_idx uneven", index(0, 1), "g_idx", "group 0 has 31 columns, expected 32"},
      {"g_idx short", replace("g_idx", DType::kI32, {64}), "qweight", "expected [8, 64]"},
      {"g_idx a matrix", replace("g_idx", DType::kI32, {96, 1}), "g_idx", "shape [96, 1]"},
      {"g_idx of int64", replace("g_idx", DType::kI64, {96}), "g_idx", "expected I32"},
      {"NaN", [](TensorMap& layer) { layer["scales"].bytes[3] = std::byte{0x7e}; }, "scales",
       "element 1 is not a finite number"},
      {"few scales", replace("scales", DType::kF16, {2, 64}), "scales", "expected [3, 64]"},
      {"scales of int32", replace("scales", DType::kI32, {3, 64}), "scales", "expected F16"},
      {"narrow zeros", replace("qzeros", DType::kI32, {3, 7}), "qzeros", "expected [3, 8]"},
      {"few codes", replace("qweight", DType::kI32, {11, 64}), "qweight", "expected [12, 64]"},
      {"codes of int16", replace("qweight", DType::kI16, {12, 64}), "qweight", "expected I32"},
      {"codes in a row", replace("qweight", DType::kI32, {768}), "qweight", "a matrix"},
      {"no codes", replace("qweight", DType::kI32, {0, 64}), "qweight", "a matrix"},
  };
  const auto codec = CodecOf(SomeConfig(4, GptqFormat::kV1));
  for (const Broken& broken : cases) {
    SCOPED_TRACE(broken.what);
    TensorMap layer = SomeLayer(4, GptqFormat::kV1);
    broken.spoil(layer);
    const absl::Status status = codec->Decode(MemoryModule(layer)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(absl::StrCat("model.layers.0.mlp.up_proj.", broken.tensor)));
    EXPECT_THAT(std::string(status.message()), HasSubstr(broken.message));
  }
}

TEST(GptqConfig, RulesAndSynonymsAreUpstreams) {
  const auto config = ParseGptqConfig(
      R"({"quant_method": "gptq", "w_bit": 8, "q_group_size": 64, "lm_head": true, "dynamic": {
          ".*up_proj": {"bits": 4, "group_size": 32}, "+:.*layers\\.1\\..*": {"sym": false},
          "-:.*down_proj": {}}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->Find("model.layers.0.mlp.gate_proj")->bits, 8);
  EXPECT_EQ(config->Find("model.layers.0.mlp.gate_proj")->group_size, 64);
  EXPECT_EQ(config->Find("model.layers.1.mlp.up_proj")->bits, 4);
  EXPECT_EQ(config->Find("model.layers.1.mlp.up_proj")->group_size, 32);
  EXPECT_TRUE(config->Find("model.layers.1.mlp.up_proj")->sym) << "the first rule that matches";
  EXPECT_FALSE(config->Find("model.layers.1.mlp.gate_proj")->sym);
  EXPECT_EQ(config->Find("model.layers.1.mlp.down_proj"), std::nullopt);
  const auto again = ParseGptqConfig(WriteGptqConfig(*config));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->Find("model.layers.0.mlp.up_proj")->group_size, 32);
  EXPECT_EQ(again->Find("model.layers.0.mlp.down_proj"), std::nullopt);
}

TEST(GptqConfig, DefaultsAreThoseOfTheLibrary) {
  const auto damp = [](const std::string& json) {
    const auto config = ParseGptqConfig(json);
    EXPECT_TRUE(config.ok()) << config.status();
    return config->parameters.damp_percent;
  };
  EXPECT_EQ(damp(R"({"bits": 4})"), 0.05);
  EXPECT_EQ(damp(R"({"bits": 4, "dataset": "c4"})"), 0.1);
  EXPECT_EQ(damp(R"({"bits": 4, "model_name_or_path": null})"), 0.01);
  const auto file = GptqConfigOfFile(R"({"bits": 4, "group_size": 128, "desc_act": false})");
  ASSERT_TRUE(file.ok()) << file.status();
  const auto config = ParseGptqConfig(*file);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->parameters.damp_percent, 0.01);
  EXPECT_FALSE(config->word_zeros);
}

TEST(GptqConfig, WrongValuesAreRefused) {
  for (const auto& [json, message] : std::vector<std::pair<std::string, std::string>>{
           {R"({"bits": 9})", "bits"},
           {R"({"bits": 5})", "gptq_p"},
           {R"({"bits": "4"})", "bits"},
           {R"({"group_size": 0})", "group_size"},
           {R"({"group_size": -2})", "group_size"},
           {R"({"format": "exl2"})", "gptq_v2"},
           {R"({"pack_dtype": "int16"})", "pack_dtype"},
           {R"({"is_marlin_format": true, "bits": 8, "desc_act": false})", "marlin"},
           {R"({"dynamic": ["a"]})", "dynamic"},
           {R"({"dynamic": {"(?!a)b": {}}})", "no lookaround"},
           {R"({"dynamic": {"a": {"bits": 1}}})", "bits"},
           {R"({"dynamic": {"a": {"bits": 6}}})", "gptq_p"},
           {R"({"meta": {"fallback": {"strategy": "mean"}}})", "rtn"},
           {R"({"meta": {"damp_percent": -1}})", "damp_percent"}}) {
    const absl::Status status = ParseGptqConfig(json).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

TEST(GptqModels, EveryStoredMatrixSurvives) {
  const std::vector<std::string> variants = GoldenVariants("gptq", "model-");
  if (variants.empty()) GTEST_SKIP() << "QUANTD_GOLDEN names no collection with whole models";
  for (const std::string& variant : variants) {
    const std::string folder = GoldenRoot() + "/gptq/" + variant;
    const auto codec = CodecFor(*ParseHfConfig(ReadTextFile(folder + "/config.json")));
    ASSERT_TRUE(codec.ok()) << codec.status();
    std::map<std::string, TensorMap> modules;
    for (const auto& [name, tensor] : ReadSafetensors(folder + "/model.safetensors")) {
      const ParameterName split = SplitParameterName(name);
      modules[split.module][split.local] = tensor;
    }
    int quantized = 0;
    for (const auto& [name, tensors] : modules) {
      SCOPED_TRACE(variant + " " + name);
      const MemoryModule module(tensors, name);
      if (!(*codec)->IsQuantized(module)) continue;
      ++quantized;
      const auto decoded = (*codec)->Decode(module);
      ASSERT_TRUE(decoded.ok()) << decoded.status();
      EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), tensors), "");
    }
    EXPECT_EQ(quantized, 14);
  }
}

}  // namespace
}  // namespace quantd

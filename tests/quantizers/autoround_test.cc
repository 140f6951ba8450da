#include "quantizers/codecs/autoround.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/solvers/sign_round.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

AutoRoundPacking PackingNamed(const std::string& name) {
  return name == "auto_gptq"  ? AutoRoundPacking::kGptq
         : name == "auto_awq" ? AutoRoundPacking::kAwq
                              : AutoRoundPacking::kPlain;
}

class AutoRoundGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string Folder() const { return GoldenRoot() + "/autoround/" + GetParam(); }
  TensorMap Read(const std::string& file) const {
    const std::string path = Folder() + "/" + file + ".safetensors";
    return std::filesystem::exists(path) ? ReadSafetensors(path) : TensorMap();
  }
  nlohmann::json Params() const { return ReadJson(Folder() + "/meta.json")["params"]; }
  std::string Config() const {
    const nlohmann::json params = Params();
    const std::string packing = params["packing"];
    return nlohmann::json{
        {"quant_method", "auto-round"},
        {"bits", params["bits"]},
        {"group_size", params["group_size"]},
        {"sym", params["sym"]},
        {"packing_format", packing == "auto_round" ? packing : "auto_round:" + packing}}
        .dump();
  }
};

TEST_P(AutoRoundGolden, DecodesAndEncodesToTheSameBytes) {
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
    // Upstream's matrix is a product with the identity, which gives every zero the same sign.
    const std::vector<float> ours = Dequantize(*decoded);
    for (size_t i = 0; i < ours.size(); ++i) {
      ASSERT_EQ(ours[i], LoadFloat(expected.at("dequant"), static_cast<int64_t>(i))) << i;
    }
  }
}

// The weight rounded, with what training found where the variant has it.
TEST_P(AutoRoundGolden, RoundsToUpstreamsBytes) {
  const nlohmann::json params = Params();
  const TensorMap input = Read("input");
  if (!input.contains("weight")) GTEST_SKIP() << "the variant has no input";
  const SignRoundSpec spec = {
      .bits = params["bits"], .group_size = params["group_size"], .sym = params["sym"]};
  std::map<std::string, std::vector<float>> trained;
  for (const char* name : {"v", "min_scale", "max_scale"}) {
    if (!input.contains(name)) continue;
    const Tensor& tensor = input.at(name);
    trained[name].resize(static_cast<size_t>(NumElements(tensor.shape)));
    LoadFloats(tensor, 0, NumElements(tensor.shape), trained[name].data());
  }
  const SignRoundTuning tuning = {trained["v"], trained["min_scale"], trained["max_scale"]};
  const bool tuned = input.contains("v");
  const std::string how = params["how"];
  auto weight = how.find("opt") != std::string::npos
                    ? QuantizeSearchedRound(input.at("weight"), spec, {})
                    : QuantizeSignRound(input.at("weight"), spec, tuned ? &tuning : nullptr);
  ASSERT_TRUE(weight.ok()) << weight.status();
  MarkAutoRound(PackingNamed(params["packing"]), false, &*weight);
  ASSERT_TRUE(Validate(*weight).ok()) << Validate(*weight);
  const auto codec = *CodecFor(ConfigWith(Config(), DType::kF16));
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*weight)), Read("quantized")), "");
}

TEST_P(AutoRoundGolden, QuantizesToUpstreamsBytes) {
  const nlohmann::json params = Params();
  const TensorMap input = Read("input");
  if (!input.contains("weight") || input.contains("v")) {
    GTEST_SKIP() << "the variant has no input, or a trained one";
  }
  std::string format = params["packing"];
  if (format == "auto_gptq" || format == "auto_awq") format = "auto_round:" + format;
  const bool searched = params["how"].get<std::string>().find("opt") != std::string::npos;
  const auto recipe = MakeRecipe("autoround", {{"bits", params["bits"].dump()},
                                               {"group_size", params["group_size"].dump()},
                                               {"sym", params["sym"].dump()},
                                               {"format", format},
                                               {"iters", "0"},
                                               {"disable_opt_rtn", searched ? "false" : "true"}});
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const TensorMap ours = QuantizeAndEncode(**recipe, input.at("weight"));
  // The plain packing of 4 bits is AWQ's when the method chooses it.
  if (format == "auto_round" && params["bits"] == 4) return;
  EXPECT_EQ(Difference(ours, Read("quantized")), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, AutoRoundGolden,
                         testing::ValuesIn(GoldenVariants("autoround", "linear-")));

absl::StatusOr<AutoRoundConfig> Parse(const std::string& rest) {
  return ParseAutoRoundConfig("{\"quant_method\": \"auto-round\"" +
                              (rest.empty() ? rest : ", " + rest) + "}");
}

TEST(AutoRoundConfigs, ReadsEveryPackingFormat) {
  for (const auto& [name, packing] :
       std::map<std::string, AutoRoundPacking>{{"auto_round", AutoRoundPacking::kPlain},
                                               {"auto_round:gptqmodel", AutoRoundPacking::kPlain},
                                               {"auto_round:auto_gptq", AutoRoundPacking::kGptq},
                                               {"auto_round:gptq", AutoRoundPacking::kGptq},
                                               {"auto", AutoRoundPacking::kGptq},
                                               {"auto_round:auto_awq", AutoRoundPacking::kAwq},
                                               {"auto_round:awq", AutoRoundPacking::kAwq}}) {
    const auto config = Parse("\"packing_format\": \"" + name + "\"");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->packing, packing) << name;
  }
  EXPECT_EQ(Parse("")->packing, AutoRoundPacking::kGptq);
  EXPECT_TRUE(CodecFor(ConfigWith(R"({"quant_method": "intel/auto-round"})", DType::kF16)).ok());
}

TEST(AutoRoundConfigs, ExtraConfigGoesByNameThenByPattern) {
  const auto config = Parse(R"("extra_config": {
      "model.layers.0.mlp.down_proj": {"bits": 8, "group_size": 32},
      ".*down_proj.*": {"bits": 2}, "self_attn\\.v": {"sym": false}, "(": {"bits": 3},
      "lm_head": {"bits": 16}})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config->LayerOf("model.layers.0.mlp.down_proj"), (AutoRoundLayer{8, 32, true}));
  EXPECT_EQ(*config->LayerOf("model.layers.1.mlp.down_proj"), (AutoRoundLayer{2, 128, true}));
  EXPECT_EQ(*config->LayerOf("model.layers.1.self_attn.v_proj"), (AutoRoundLayer{4, 128, false}));
  EXPECT_EQ(*config->LayerOf("model.layers.1.mlp.up_proj"), AutoRoundLayer{});
  EXPECT_EQ(config->LayerOf("lm_head")->bits, 16);
  const auto both = Parse(R"("extra_config": {"down": {"bits": 8}, "mlp": {"bits": 2}})");
  EXPECT_THAT(std::string(both->LayerOf("model.layers.0.mlp.down_proj").status().message()),
              HasSubstr("disagree"));
}

TEST(AutoRoundConfigs, RefusesWhatTheCodesWouldNotMean) {
  for (const auto& [rest, code, message] :
       std::vector<std::tuple<std::string, StatusCode, std::string>>{
           {R"("rotation_config": {"x": 1})", StatusCode::kUnimplemented, "rotated"},
           {R"("data_type": "mx_fp")", StatusCode::kUnimplemented, "mx_fp"},
           {R"("act_bits": 8)", StatusCode::kUnimplemented, "act_bits"},
           {R"("super_bits": 6)", StatusCode::kUnimplemented, "super_bits"},
           {R"("packing_format": "auto_round:fp8")", StatusCode::kInvalidArgument, "auto_awq"},
           {R"("bits": 9)", StatusCode::kInvalidArgument, "2 to 8"},
           {R"("group_size": 0)", StatusCode::kInvalidArgument, "group_size"},
           {R"("extra_config": [])", StatusCode::kInvalidArgument, "extra_config"},
           {R"("extra_config": {"a": 4})", StatusCode::kInvalidArgument, "extra_config.a"},
           {R"("extra_config": {"a": {"data_type": "fp8"}})", StatusCode::kUnimplemented,
            "extra_config.a.data_type"}}) {
    const absl::Status status = Parse(rest).status();
    EXPECT_EQ(status.code(), code) << rest;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
}

Tensor Matrix(DType dtype, Shape shape, const std::vector<float>& values) {
  Tensor tensor = MakeTensor(dtype, std::move(shape));
  StoreFloats(dtype, values.data(), static_cast<int64_t>(values.size()), tensor.bytes.data());
  return tensor;
}

// A group whose larger side is positive has a negative scale, and its extreme is exact.
TEST(SignRound, ScalesMayBeNegative) {
  const Tensor weight = Matrix(DType::kF32, {2, 4}, {4, -1, 2, 0, -4, 1, -2, 0});
  const auto out = QuantizeSignRound(weight, {.bits = 4, .group_size = 4}, nullptr);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(out->scale, testing::ElementsAre(-0.5f, 0.5f));
  EXPECT_THAT(out->codes, testing::ElementsAre(0, 10, 4, 8, 0, 10, 4, 8));
  EXPECT_THAT(Dequantize(*out), testing::ElementsAre(4, -1, 2, 0, -4, 1, -2, 0));
}

// Zero points are stored less one: 0 becomes 1, which is what the file then means.
TEST(SignRound, AZeroPointOfZeroIsLostInTheGptqPacking) {
  std::vector<float> values(32 * 32, 1.0f);
  const Tensor weight = Matrix(DType::kF32, {32, 32}, values);
  auto out = *QuantizeSignRound(weight, {.group_size = 32, .sym = false}, nullptr);
  EXPECT_EQ(out.zero_point.front(), 0);
  MarkAutoRound(AutoRoundPacking::kGptq, false, &out);
  const AutoRoundCodec codec(*Parse(R"("group_size": 32, "sym": false)"));
  const auto decoded = codec.Decode(MemoryModule(MemoryModule::ToMap(*codec.Encode(out))));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->zero_point.front(), 1);
  EXPECT_EQ(decoded->codes, out.codes);
}

TEST(SignRound, WeightsBeyondHalfPrecisionAreRefused) {
  const Tensor weight = Matrix(DType::kF32, {1, 2}, {1e30f, 1});
  for (const bool sym : {true, false}) {
    const auto out = QuantizeSignRound(weight, {.group_size = -1, .sym = sym}, nullptr);
    EXPECT_EQ(out.status().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(out.status().message()), HasSubstr("group 0"));
  }
}

TEST(SignRound, TheSearchIsNoWorseThanRounding) {
  std::vector<float> values;
  for (int i = 0; i < 512; ++i) values.push_back(std::sin(static_cast<float>(i * i)));
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Tensor weight = Matrix(dtype, {4, 128}, values);
    for (const int bits : {2, 4}) {
      const SignRoundSpec spec = {.bits = bits, .group_size = 64};
      const auto error = [&](const QuantizedTensor& out) {
        double sum = 0;
        const std::vector<float> found = Dequantize(out);
        for (size_t i = 0; i < found.size(); ++i) {
          sum += std::pow(found[i] - LoadFloat(weight, static_cast<int64_t>(i)), 2);
        }
        return sum;
      };
      EXPECT_LT(error(*QuantizeSearchedRound(weight, spec, {})),
                error(*QuantizeSignRound(weight, spec, nullptr)));
      const std::vector<float> ones(128, 1.0f);
      EXPECT_EQ(QuantizeSearchedRound(weight, spec, ones)->codes,
                QuantizeSearchedRound(weight, spec, {})->codes);
    }
  }
}

nlohmann::json ConfigOf(const std::map<std::string, std::string>& options) {
  const auto recipe = MakeRecipe("autoround", options);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return nlohmann::json::parse((*recipe)->QuantizationConfig(ModelConfig()));
}

TEST(AutoRoundMethod, TheFormatChoosesThePacking) {
  const auto packing = [](std::map<std::string, std::string> options) {
    return ConfigOf(options)["packing_format"].get<std::string>();
  };
  EXPECT_EQ(packing({}), "auto_round:auto_gptq");
  EXPECT_EQ(packing({{"sym", "false"}}), "auto_round:auto_awq");
  EXPECT_EQ(packing({{"sym", "false"}, {"bits", "2"}}), "auto_round");
  EXPECT_EQ(packing({{"sym", "false"}, {"layer_config", R"({"down_proj": {"bits": 8}})"}}),
            "auto_round");
  EXPECT_EQ(packing({{"sym", "false"}, {"layer_config", R"({"down_proj": {"bits": 16}})"}}),
            "auto_round:auto_awq");
  EXPECT_EQ(packing({{"format", "auto_round:gptqmodel"}}), "auto_round:gptqmodel");
}

TEST(AutoRoundMethod, WritesTheConfigsOfAutoRound) {
  EXPECT_EQ(ConfigOf({{"iters", "20"}}), nlohmann::json::parse(R"({"autoround_version": "0.16.1",
      "bits": 4, "block_name_to_quantize": "model.layers", "data_type": "int", "group_size": 128,
      "iters": 20, "packing_format": "auto_round:auto_gptq", "quant_method": "auto-round",
      "sym": true})"));
  EXPECT_EQ(ConfigOf({{"iters", "20"}, {"format", "auto_gptq"}}),
            nlohmann::json::parse(R"({"autoround_version": "0.16.1", "bits": 4,
      "damp_percent": 0.01, "data_type": "int", "desc_act": false, "group_size": 128, "iters": 20,
      "lm_head": false, "provider": "auto-round", "quant_method": "gptq", "sym": true,
      "true_sequential": false})"));
  EXPECT_EQ(ConfigOf({{"iters", "20"}, {"format", "auto_awq"}, {"sym", "false"}}),
            nlohmann::json::parse(R"({"autoround_version": "0.16.1", "bits": 4,
      "data_type": "int", "group_size": 128, "iters": 20, "modules_to_not_convert": ["lm_head"],
      "provider": "auto-round", "quant_method": "awq", "sym": false,
      "to_quant_block_names": "model.layers", "version": "gemm", "zero_point": true})"));
  EXPECT_EQ(ConfigOf({{"iters", "0"}})["enable_quanted_input"], false);
}

TEST(AutoRoundMethod, PresetsSetWhatIsNotGiven) {
  const auto steps = [](const std::string& preset, std::map<std::string, std::string> options) {
    options["preset"] = preset;
    return ConfigOf(options).value("iters", 200);
  };
  EXPECT_EQ(steps("default", {}), 200);
  EXPECT_EQ(steps("light", {}), 50);
  EXPECT_EQ(steps("fast", {}), 50);
  EXPECT_EQ(steps("best", {}), 1000);
  EXPECT_EQ(steps("best", {{"iters", "7"}}), 7);
  const auto best = MakeRecipe("autoround", {{"preset", "best"}});
  EXPECT_EQ((*best)->calibration()->nsamples, 512);
}

// What is exported for GPTQ and AWQ reads back as such.
TEST(AutoRoundMethod, ExportsAreReadByTheirOwnCodecs) {
  std::vector<float> values;
  for (int i = 0; i < 64 * 128; ++i) values.push_back(std::cos(static_cast<float>(i * i)));
  const Tensor weight = Matrix(DType::kF16, {64, 128}, values);
  for (const char* format : {"auto_gptq", "auto_awq"}) {
    const auto recipe =
        *MakeRecipe("autoround", {{"format", format}, {"iters", "0"}, {"sym", "false"}});
    const TensorMap stored = QuantizeAndEncode(*recipe, weight);
    const auto codec = CodecFor(ConfigWith(recipe->QuantizationConfig(ModelConfig()), DType::kF16));
    ASSERT_TRUE(codec.ok()) << codec.status();
    const auto decoded = (*codec)->Decode(MemoryModule(stored));
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    EXPECT_EQ(Dequantize(*decoded),
              Dequantize(*QuantizeSignRound(weight, {.sym = false}, nullptr)));
    EXPECT_EQ(Difference(MemoryModule::ToMap(*(*codec)->Encode(*decoded)), stored), "");
  }
}

TEST(AutoRoundMethod, RefusesWhatCannotBeStoredOrTrained) {
  const auto status = [](const std::map<std::string, std::string>& options) {
    return std::string(MakeRecipe("autoround", options).status().message());
  };
  EXPECT_THAT(status({{"format", "auto_awq"}, {"bits", "8"}}), HasSubstr("auto_awq stores 4"));
  EXPECT_THAT(status({{"format", "auto_round:auto_awq"}, {"bits", "3"}}), HasSubstr("4 to 7"));
  EXPECT_THAT(status({{"format", "auto_gptq"}, {"layer_config", R"({"a": {"bits": 8}})"}}),
              HasSubstr("layer_config"));
  EXPECT_THAT(status({{"layer_config", "[]"}}), HasSubstr("JSON object"));
  EXPECT_THAT(status({{"layer_config", R"({"a": {"bits": "8"}})"}}), HasSubstr("a.bits"));
  EXPECT_THAT(status({{"nsamples", "0"}}), HasSubstr("nsamples"));
  EXPECT_THAT(status({{"iters", "-1"}}), HasSubstr("iters"));
  const auto recipe = *MakeRecipe("autoround", {});
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  info.layer = 0;
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  EXPECT_THAT(
      std::string(scheme->Quantize(MakeTensor(DType::kF16, {32, 128}), nullptr).status().message()),
      HasSubstr("set iters to 0"));
  EXPECT_THAT(std::string(scheme->CheckShape(33, 128).message()), HasSubstr("multiples of 32"));
}

TEST(AutoRoundTensors, EveryWidthAndPackingComesBack) {
  std::vector<float> values;
  for (int i = 0; i < 64 * 96; ++i) values.push_back(std::cos(static_cast<float>(i * i)));
  const Tensor weight = Matrix(DType::kBF16, {64, 96}, values);
  for (int bits = 2; bits <= 8; ++bits) {
    for (const char* packing :
         {"auto_round", "auto_round:gptqmodel", "auto_round:auto_gptq", "auto_round:auto_awq"}) {
      for (const int64_t group : {int64_t{-1}, int64_t{32}}) {
        SCOPED_TRACE(absl::StrCat(bits, " ", packing, " ", group));
        const auto config = *Parse(absl::StrCat("\"bits\": ", bits, ", \"group_size\": ", group,
                                                ", \"packing_format\": \"", packing, "\""));
        if (config.packing == AutoRoundPacking::kAwq && (bits < 4 || bits > 7)) continue;
        auto out = *QuantizeSignRound(weight, {.bits = bits, .group_size = group}, nullptr);
        MarkAutoRound(config.packing, config.stores_group_index, &out);
        const AutoRoundCodec codec(config);
        const TensorMap stored = MemoryModule::ToMap(*codec.Encode(out));
        EXPECT_EQ(stored.contains("g_idx"), packing == std::string("auto_round:gptqmodel"));
        EXPECT_EQ(*codec.MatrixShape(MemoryModule(stored)), (Shape{64, 96}));
        const auto decoded = codec.Decode(MemoryModule(stored));
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        EXPECT_EQ(decoded->codes, out.codes);
        EXPECT_EQ(decoded->zero_point, out.zero_point);
        EXPECT_EQ(Difference(MemoryModule::ToMap(*codec.Encode(*decoded)), stored), "");
      }
    }
  }
}

TEST(AutoRoundTensors, WrongOnesAreRefusedByName) {
  const Tensor weight = MakeTensor(DType::kF16, {32, 64});
  auto out = *QuantizeSignRound(weight, {.group_size = 32}, nullptr);
  MarkAutoRound(AutoRoundPacking::kGptq, true, &out);
  const auto config = *Parse(R"("group_size": 32, "extra_config": {"lm_head": {"bits": 16}})");
  const AutoRoundCodec codec(config);
  const TensorMap good = MemoryModule::ToMap(*codec.Encode(out));
  ASSERT_TRUE(codec.Decode(MemoryModule(good)).ok());
  const auto check = [&](const std::string& name, std::optional<Tensor> tensor,
                         const std::string& message) {
    TensorMap tensors = good;
    tensors.erase(name);
    if (tensor) tensors[name] = *tensor;
    const absl::Status status = codec.Decode(MemoryModule(tensors)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  check("qzeros", std::nullopt, "up_proj.qzeros: the tensor is missing");
  check("scales", std::nullopt, "up_proj.scales: the tensor is missing");
  check("scales", MakeTensor(DType::kBF16, {2, 32}), "expected F16");
  check("scales", MakeTensor(DType::kF16, {32, 2}), "[2, 32]");
  check("qzeros", MakeTensor(DType::kI32, {2, 5}), "[2, 4]");
  check("qweight", MakeTensor(DType::kI32, {6, 32}), "a multiple of 4 rows");
  check("qweight", MakeTensor(DType::kI32, {8, 33}), "of 32 columns");
  check("qweight", MakeTensor(DType::kI32, {256}), "a matrix");
  check("g_idx", MakeTensor(DType::kI32, {64}), "column 32 is in group 0, expected 1");
  check("weight", MakeTensor(DType::kF16, {32, 64}), "one of them");
  EXPECT_THAT(std::string(codec.Decode(MemoryModule(good, "lm_head")).status().message()),
              HasSubstr("16 bits; expected 2 to 8"));
}

}  // namespace
}  // namespace quantd

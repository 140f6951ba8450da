// Static scales of activations against what llm-compressor's observers, compressed-tensors and AMD
// Quark find (tests/data/golden/compressed-tensors/activations, quark/model-fp8-tensor-static-act),
// and the rounding of inputs against compressed-tensors' fake_quantize.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/input_rounding.h"
#include "quantizers/codecs/stored_tensors.h"
#include "quantizers/pipeline.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using Values = InputRounding::Values;

nlohmann::json Observed() {
  return ReadJson(GoldenRoot() + "/compressed-tensors/activations/observers.json");
}

Tensor TensorFrom(const nlohmann::json& sequences, DType dtype) {
  std::vector<float> values;
  for (const auto& sequence : sequences) {
    for (const auto& row : sequence) {
      for (const auto& value : row) values.push_back(value.get<float>());
    }
  }
  const Shape shape = {static_cast<int64_t>(sequences.size()),
                       static_cast<int64_t>(sequences[0].size()),
                       static_cast<int64_t>(sequences[0][0].size())};
  return ConvertTensor(TensorOf<float>(DType::kF32, shape, std::span<const float>(values)), dtype);
}

Tensor SomeWeight(int64_t cols, DType dtype) {
  std::vector<float> values(static_cast<size_t>(8 * cols));
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  return ConvertTensor(TensorOf<float>(DType::kF32, {8, cols}, std::span<const float>(values)),
                       dtype);
}

nlohmann::json CtConfig(const nlohmann::json& inputs) {
  const std::string type = inputs.is_object() ? inputs.value("type", "int") : "int";
  const bool nvfp4 = type == "float" && inputs.value("num_bits", 8) == 4;
  nlohmann::json weights = {{"num_bits", 8}, {"type", type}};
  if (nvfp4) {
    weights.update({{"num_bits", 4},
                    {"strategy", "tensor_group"},
                    {"group_size", 16},
                    {"scale_dtype", "torch.float8_e4m3fn"}});
  }
  return {{"quant_method", "compressed-tensors"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}}, {"weights", weights}, {"input_activations", inputs}}}}},
          {"ignore", nlohmann::json::array()}};
}

nlohmann::json InputsNamed(const std::string& name) {
  nlohmann::json inputs = {{"num_bits", absl::StartsWith(name, "int4") ? 4 : 8},
                           {"strategy", "tensor"},
                           {"symmetric", !absl::StrContains(name, "asym")}};
  if (name == "fp8") inputs["type"] = "float";
  if (name == "nvfp4") {
    inputs = {{"num_bits", 4},
              {"type", "float"},
              {"strategy", "tensor_group"},
              {"group_size", 16},
              {"dynamic", "local"},
              {"observer", "static_minmax"},
              {"scale_dtype", "torch.float8_e4m3fn"}};
  }
  return inputs;
}

absl::StatusOr<TensorMap> QuantizeOne(const nlohmann::json& config, const Tensor& weight,
                                      const Tensor* calibration) {
  const auto recipe = RecipeFromConfig(config.dump());
  if (!recipe.ok()) return recipe.status();
  const TensorView view = calibration == nullptr ? TensorView() : calibration->view();
  auto quantized = QuantizeMatrix(weight, calibration == nullptr ? nullptr : &view, **recipe);
  if (!quantized.ok()) return quantized.status();
  return MemoryModule::ToMap(quantized->tensors);
}

TEST(ActivationScales, AreWhatLlmCompressorsObserversFind) {
  const nlohmann::json golden = Observed();
  int checked = 0;
  for (const auto& entry : golden["scales"]) {
    SCOPED_TRACE(entry.dump());
    const DType dtype = *DTypeFromSafetensors(entry[0].get<std::string>());
    const std::string observer = entry[1], name = entry[2];
    nlohmann::json inputs = InputsNamed(name);
    // Averages of groups are another thing than those of all inputs.
    if (name == "nvfp4" && absl::StartsWith(observer, "minmax")) continue;
    nlohmann::json sequences = golden["sequences"];
    if (observer == "zeros") {
      for (auto& row : sequences[0]) row = std::vector<float>(row.size(), 0.0f);
      sequences = nlohmann::json::array({sequences[0]});
    } else if (observer == "minmax-0.3") {
      inputs["observer_kwargs"] = {{"averaging_constant", 0.3}};
    } else if (observer != "minmax") {  // which is the default
      inputs["observer"] = observer;
    }
    const Tensor calibration = TensorFrom(sequences, dtype);
    const auto found = QuantizeOne(CtConfig(inputs), SomeWeight(16, dtype), &calibration);
    ASSERT_TRUE(found.ok()) << found.status();
    const bool local = name == "nvfp4", asymmetric = absl::StrContains(name, "asym");
    const Tensor& scale = found->at(local ? "input_global_scale" : "input_scale");
    EXPECT_EQ(scale.dtype, local ? DType::kF32 : dtype);
    EXPECT_EQ(scale.shape, Shape{1});
    EXPECT_EQ(LoadFloat(scale, 0), entry[3].get<float>());
    ASSERT_EQ(found->contains("input_zero_point"), asymmetric);
    if (asymmetric) {
      const Tensor& zero = found->at("input_zero_point");
      EXPECT_EQ(zero.dtype, DType::kI8);
      EXPECT_EQ(static_cast<int8_t>(zero.bytes[0]), entry[4].get<int>());
    }
    ++checked;
  }
  EXPECT_EQ(checked, 69);  // 3 dtypes, 5 kinds of inputs, 4 observers and zeros; less 6 averages
}

InputRounding RoundingNamed(const std::string& name) {
  InputRounding rounding;
  rounding.values = absl::StartsWith(name, "int") ? Values::kInteger
                    : name == "nvfp4"             ? Values::kE2M1
                                                  : Values::kE4M3;
  rounding.symmetric = !absl::StrContains(name, "asym");
  rounding.dynamic =
      absl::StrContains(name, "-token") || absl::StrContains(name, "group") || name == "nvfp4";
  if (name == "fp8-group8") rounding.group = 8;
  if (name == "nvfp4") {
    rounding.group = 16;
    rounding.global_scale = 217.5f;
  }
  if (!rounding.dynamic) rounding.scale = name == "fp8" ? 0.0125f : 0.0371f;
  if (name == "int8-asym") rounding.zero_point = -31;
  return rounding;
}

TEST(InputRounding, IsUpstreamsFakeQuantization) {
  const nlohmann::json golden = Observed();
  const Tensor x = TensorFrom(nlohmann::json::array({golden["x"]}), DType::kF32);
  for (const auto& entry : golden["rounding"]) {
    SCOPED_TRACE(entry[0].get<std::string>());
    const InputRounding rounding = RoundingNamed(entry[0]);
    ASSERT_TRUE(Validate(rounding).ok());
    const Tensor expected = TensorFrom(nlohmann::json::array({entry[1]}), DType::kF32);
    std::vector<float> row(16);
    for (int64_t t = 0; t < x.shape[1]; ++t) {
      LoadFloats(x, t * 16, 16, row.data());
      RoundInputs(rounding, row.data(), 16, row.data());
      for (int64_t c = 0; c < 16; ++c) {
        EXPECT_EQ(row[c], LoadFloat(expected, t * 16 + c)) << t << " " << c;
      }
    }
  }
}

// An integer with Quark's rounding, E5M2's subnormals and bounds of FBGEMM.
TEST(InputRounding, OfTheOtherLibraries) {
  const auto round = [](const InputRounding& rounding, std::vector<float> row) {
    RoundInputs(rounding, row.data(), static_cast<int64_t>(row.size()), row.data());
    return row;
  };
  const InputRounding quark = {.values = Values::kInteger,
                               .is_signed = false,
                               .by_reciprocal = true,
                               .scale = 0.5f,
                               .zero_point = 3};
  EXPECT_THAT(round(quark, {0.25f, 0.75f, -1.6f, 500.0f}),
              testing::ElementsAre(0.0f, 1.0f, -1.5f, 126.0f));
  const InputRounding e5m2 = {.values = Values::kE5M2, .scale = 1};
  EXPECT_THAT(round(e5m2, {1.1f, -0x1.8p-16f, 0x1p-17f, 1e6f}),
              testing::ElementsAre(1.0f, -0x1p-15f, 0.0f, 57344.0f));
  const InputRounding bounded = {.values = Values::kE4M3,
                                 .dynamic = true,
                                 .upper_bound = 448,
                                 .least_scale = 1.0f / (448.0f * 512.0f)};
  EXPECT_THAT(round(bounded, {500.0f, 1.0f}), testing::ElementsAre(448.0f, 1.0f));
  EXPECT_THAT(round(bounded, {0.0f, 0.0f}), testing::ElementsAre(0.0f, 0.0f));
}

TEST(ActivationScales, OfTheRangeOfAllSequencesForQuarkAndFp8) {
  const Tensor calibration = TensorFrom(Observed()["sequences"], DType::kBF16);
  float least = 0, greatest = 0;
  for (int64_t i = 0; i < calibration.view().elements(); ++i) {
    least = std::min(least, LoadFloat(calibration, i));
    greatest = std::max(greatest, LoadFloat(calibration, i));
  }
  const float largest = std::max(-least, greatest);
  const Tensor weight = SomeWeight(16, DType::kBF16);
  const auto quantize = [&](const std::map<std::string, std::string>& options,
                            const std::string& method) {
    const auto recipe = MakeRecipe(method, options);
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    const TensorView view = calibration.view();
    const auto quantized = QuantizeMatrix(weight, &view, **recipe);
    EXPECT_TRUE(quantized.ok()) << quantized.status();
    return quantized.ok() ? MemoryModule::ToMap(quantized->tensors) : TensorMap();
  };
  const TensorMap fp8 = quantize({{"dtype", "fp8_e4m3"}, {"input_dtype", "fp8_e4m3"}}, "quark");
  EXPECT_EQ(LoadFloat(fp8.at("input_scale"), 0), RoundTo(DType::kBF16, largest / 448));
  EXPECT_EQ(fp8.at("input_scale").dtype, DType::kBF16);
  const TensorMap int8 =
      quantize({{"dtype", "int8"}, {"qscheme", "per_channel"}, {"input_dtype", "int8"}}, "quark");
  EXPECT_EQ(LoadFloat(int8.at("input_scale"), 0), RoundTo(DType::kBF16, largest / 127.5f));
  EXPECT_EQ(int8.at("input_scale").dtype, DType::kF32);
  EXPECT_EQ(int8.at("input_zero_point").dtype, DType::kI8);
  const TensorMap tiles =
      quantize({{"weight_block_size", "none"}, {"activation_scheme", "static"}}, "fp8");
  EXPECT_EQ(LoadFloat(tiles.at("activation_scale"), 0), largest / 448);
}

// Of the original libraries' one layer with static scales, whose inputs the file holds.
TEST(ActivationScales, OfTheGoldenLayers) {
  for (const std::string& variant : GoldenVariants("compressed-tensors", "linear-")) {
    if (!absl::StrContains(variant, "static")) continue;
    SCOPED_TRACE(variant);
    const std::string folder = absl::StrCat(GoldenRoot(), "/compressed-tensors/", variant);
    nlohmann::json scheme = ReadJson(folder + "/meta.json")["scheme"];
    const nlohmann::json config = {{"quant_method", "compressed-tensors"},
                                   {"config_groups", {{"group_0", scheme}}},
                                   {"ignore", nlohmann::json::array()}};
    TensorMap input = ReadSafetensors(folder + "/input.safetensors");
    const TensorMap expected = ReadSafetensors(folder + "/quantized.safetensors");
    const auto found = QuantizeOne(config, input["weight"], &input["x"]);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(Difference(*found, expected), "");
  }
}

TEST(ActivationScales, NeedCalibrationAndAreRefusedByName) {
  const Tensor weight = SomeWeight(16, DType::kBF16);
  const auto message = [&](nlohmann::json config) {
    const absl::Status status = QuantizeOne(config, weight, nullptr).status();
    return absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
  };
  EXPECT_THAT(
      message(CtConfig(InputsNamed("int8"))),
      testing::AllOf(testing::HasSubstr("INVALID_ARGUMENT"), testing::HasSubstr("`calibration`")));
  const auto with = [](const char* key, const nlohmann::json& value) {
    nlohmann::json inputs = InputsNamed("int8");
    inputs[key] = value;
    return CtConfig(inputs);
  };
  nlohmann::json grouped = with("strategy", "group");
  grouped["config_groups"]["group_0"]["input_activations"]["group_size"] = 16;
  nlohmann::json outputs = CtConfig(nullptr);
  outputs["config_groups"]["group_0"]["output_activations"] = InputsNamed("int8");
  nlohmann::json cache = CtConfig(nullptr);
  cache["kv_cache_scheme"] = InputsNamed("fp8");
  nlohmann::json alone = CtConfig(InputsNamed("int8"));
  alone["config_groups"]["group_0"]["weights"] = nullptr;
  for (const auto& [config, part] : {std::pair{with("observer", "mse"), "observer: found mse"},
                                     {grouped, "strategy: found group"},
                                     {with("num_bits", 16), "num_bits: found 16"},
                                     {outputs, "output_activations"},
                                     {cache, "kv_cache_scheme"},
                                     {alone, "weights that are quantized"}}) {
    EXPECT_THAT(message(config),
                testing::AllOf(testing::HasSubstr("UNIMPLEMENTED"), testing::HasSubstr(part)));
  }
}

TEST(ActivationScales, SpoiltOnesAreRefused) {
  const auto codec = CodecFor(ConfigWith(CtConfig(InputsNamed("int8-asym")).dump(), DType::kBF16));
  ASSERT_TRUE(codec.ok()) << codec.status();
  const Tensor calibration = TensorFrom(Observed()["sequences"], DType::kBF16);
  const auto good =
      QuantizeOne(CtConfig(InputsNamed("int8-asym")), SomeWeight(16, DType::kBF16), &calibration);
  ASSERT_TRUE(good.ok()) << good.status();
  const auto decoded = (*codec)->Decode(MemoryModule(*good));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->input.rounding.scale, LoadFloat(good->at("input_scale"), 0));
  EXPECT_TRUE(decoded->input.rounding.any());
  for (const auto& [name, tensor] :
       {std::pair{"input_scale", FloatTensor(DType::kBF16, {1}, {0.0f})},
        {"input_scale", FloatTensor(DType::kBF16, {1}, {std::nanf("")})},
        {"input_scale", FloatTensor(DType::kBF16, {2}, {1.0f, 1.0f})},
        {"input_zero_point", MakeTensor(DType::kI8, {2})}}) {
    TensorMap spoilt = *good;
    spoilt[name] = tensor;
    const absl::Status status = (*codec)->Decode(MemoryModule(spoilt)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr(name));
  }
  TensorMap missing = *good;
  missing.erase("input_zero_point");
  EXPECT_EQ((*codec)->Decode(MemoryModule(missing)).status().code(),
            absl::StatusCode::kInvalidArgument);
  // Weights alone are enough where inputs stay as they are.
  missing.erase("input_scale");
  const auto without = (*codec)->Decode(MemoryModule(missing));
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_FALSE(without->input.rounding.any());
}

}  // namespace
}  // namespace quantd

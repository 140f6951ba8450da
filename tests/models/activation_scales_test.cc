// Static scales of activations from the calibration of a whole model, and what a load that asks for
// quantized activations does with them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/float_types.h"
#include "core/parallel.h"
#include "models/calibration/block_model.h"
#include "models/model.h"
#include "quantizers/calibration_data.h"
#include "quantizers/pipeline.h"
#include "tests/test_data.h"

namespace quantd {
namespace {

namespace fs = std::filesystem;

class ActivationScales : public testing::Test {
 protected:
  void SetUp() override {
    path_ = fs::path(testing::TempDir()) /
            (std::string("activations-") +
             testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(path_);
    fs::create_directories(path_ / "tiny");
    for (const char* name : {"config.json", "model.safetensors"}) {
      fs::copy_file(fs::path(TestData("golden/tiny-llama")) / name, path_ / "tiny" / name);
    }
    root_ = *ModelRoot::Open(path_.string());
    std::ifstream stream(TestData("golden/quark/activations/static.json"));
    golden_ = nlohmann::json::parse(stream);
    ids_ = golden_["input_ids"].get<std::vector<int32_t>>();
  }
  void TearDown() override { fs::remove_all(path_); }

  absl::StatusOr<QuantizeReport> Quantize(const Recipe& recipe, const std::string& name) {
    CalibrationData data;
    data.model = *OpenBlockModel(*OpenModelSource(root_, "tiny"),
                                 {.positions = static_cast<int64_t>(ids_.size()), .stopped = {}});
    data.sequences = [this]() -> absl::StatusOr<TokenSequences> { return TokenSequences{ids_}; };
    return QuantizeCheckpoint(root_, "tiny", recipe, {.name = name}, control_, &data);
  }

  absl::StatusOr<std::vector<float>> Logits(const std::string& name, const LoadOptions& options) {
    absl::StatusOr<std::unique_ptr<ModelSource>> source = OpenModelSource(root_, name);
    if (!source.ok()) return source.status();
    const auto model = Model::Load(*std::move(source), options);
    if (!model.ok()) return model.status();
    EXPECT_EQ((*model)->quantizes_activations(), options.quantize_activations);
    return (*model)->Logits({ids_});
  }

  static double Distance(const std::vector<float>& a, const std::vector<float>& b) {
    double error = 0, norm = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      error += std::pow(a[i] - b[i], 2);
      norm += std::pow(b[i], 2);
    }
    return std::sqrt(error / norm);
  }

  fs::path path_;
  std::shared_ptr<const ModelRoot> root_;
  nlohmann::json golden_;
  std::vector<int32_t> ids_;
  JobControl control_;
};

// Upstream's activations are bfloat16, ours float32: its largest input, and so the scale, may be a
// few of bfloat16's steps (2^-8 of the value) away, and a zero point of 8 bits a step or two.
TEST_F(ActivationScales, AreQuarks) {
  for (const auto& [dtype, model] : golden_["models"].items()) {
    SCOPED_TRACE(dtype);
    const auto recipe = RecipeFromConfig(model["quantization_config"].dump());
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    ASSERT_TRUE((*recipe)->calibration().has_value());
    const auto report = Quantize(**recipe, dtype);
    ASSERT_TRUE(report.ok()) << report.status();
    const auto is_scaled = [](const LayerReport& layer) {
      return layer.scheme.find(", static ") != std::string::npos;
    };
    EXPECT_EQ(std::count_if(report->layers.begin(), report->layers.end(), is_scaled), 14);
    const auto source = *OpenModelSource(root_, dtype);
    ASSERT_EQ(model["input_scale"].size(), 14u);
    for (const auto& [module, scale] : model["input_scale"].items()) {
      const auto weight = source->Read(module + ".weight");
      ASSERT_TRUE(weight.ok()) << weight.status();
      const InputRounding& rounding = std::get<QuantizedTensor>(*weight).input.rounding;
      EXPECT_EQ(rounding.values == InputRounding::Values::kInteger, dtype != "fp8_e4m3");
      EXPECT_EQ(rounding.is_signed, dtype != "uint8");
      EXPECT_NEAR(rounding.scale, scale.get<float>(), 4.0 / 256 * scale.get<float>()) << module;
      EXPECT_NEAR(rounding.zero_point, model["input_zero_point"].value(module, 0.0f), 2) << module;
    }
  }
}

TEST_F(ActivationScales, AreAppliedWhereALoadAsksForIt) {
  const auto recipe =
      *MakeRecipe("compressed-tensors", {{"scheme", "W8A8"}, {"activations", "static"}});
  ASSERT_TRUE(Quantize(*recipe, "static").ok());
  const auto dynamic = *MakeRecipe("compressed-tensors", {{"scheme", "W8A8"}});
  ASSERT_TRUE(QuantizeCheckpoint(root_, "tiny", *dynamic, {.name = "dynamic"}, control_).ok());
  const auto weights_only = *MakeRecipe("compressed-tensors", {{"scheme", "W8A16"}});
  ASSERT_TRUE(QuantizeCheckpoint(root_, "tiny", *weights_only, {.name = "plain"}, control_).ok());
  const auto exact = [](bool rounded, const std::string& device = "cpu") {
    return LoadOptions{
        .device = device, .compute = Compute::kExact, .quantize_activations = rounded};
  };
  for (const std::string name : {"static", "dynamic"}) {
    SCOPED_TRACE(name);
    const auto plain = Logits(name, exact(false)), rounded = Logits(name, exact(true));
    ASSERT_TRUE(plain.ok() && rounded.ok()) << plain.status() << rounded.status();
    // Eight bits: a change, but a small one. The tiny model's channels that stand out make it so
    // large for one scale.
    EXPECT_GT(Distance(*rounded, *plain), 1e-3);
    EXPECT_LT(Distance(*rounded, *plain), 0.3);
    // Fast compute is 1 % away without rounding, which moves many inputs across the middle between
    // two steps: it comes as near as 0.57 of what rounding changes (unrounded: 1).
    LoadOptions fast = exact(true);
    fast.compute = Compute::kFast;
    EXPECT_LT(Distance(*Logits(name, fast), *rounded), 0.75 * Distance(*plain, *rounded));
    const auto opencl = Logits(name, exact(true, "opencl"));
    if (!opencl.ok()) continue;
    // Sums in another order move single inputs to the next of 255 steps.
    EXPECT_LT(Distance(*opencl, *rounded), 2e-2);
  }
  const absl::Status none = Logits("plain", exact(true)).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(none.message()), testing::HasSubstr("quantize_activations"));
}

}  // namespace
}  // namespace quantd

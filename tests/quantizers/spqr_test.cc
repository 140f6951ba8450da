#include "quantizers/codecs/spqr.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/float_types.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

constexpr char kConfig[] = R"({"quant_method": "spqr", "bits": 3, "beta1": 16, "beta2": 16})";

std::unique_ptr<Codec> SpqrOf(const std::string& config = kConfig) {
  auto codec = CodecFor(ConfigWith(config, DType::kF16));
  EXPECT_TRUE(codec.ok()) << codec.status();
  return *std::move(codec);
}

class SpqrGolden : public testing::TestWithParam<std::string> {
 protected:
  std::string folder() const { return GoldenRoot() + "/spqr/" + GetParam(); }
};

// Upstream's dequantization leaves the columns in the order of the codes.
Tensor InPermutedOrder(const QuantizedTensor& weight) {
  const std::vector<float> values = Dequantize(weight);
  std::vector<float> ordered(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t column = i % weight.cols;
    const auto& order = weight.input.permutation;
    ordered[i] = values[i - column + (order.empty() ? column : order[column])];
  }
  Tensor out = MakeTensor(DType::kF16, {weight.rows, weight.cols});
  StoreFloats(DType::kF16, ordered.data(), static_cast<int64_t>(ordered.size()), out.bytes.data());
  return out;
}

TEST_P(SpqrGolden, ReadsAndWritesUpstreamsBytes) {
  const TensorMap tensors = ReadSafetensors(folder() + "/quantized.safetensors");
  TensorMap expected = ReadSafetensors(folder() + "/expected.safetensors");
  const auto codec = SpqrOf();
  const auto decoded = codec->Decode(MemoryModule(tensors));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(
      Difference({{"dequant", InPermutedOrder(*decoded)}}, {{"dequant", expected["dequant"]}}), "");
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), tensors), "");
  // The tensors that the quantizer hands to upstream's packing.
  const auto* codes = reinterpret_cast<const uint8_t*>(expected["legacy.W"].bytes.data());
  EXPECT_TRUE(std::equal(decoded->codes.begin(), decoded->codes.end(), codes));
}

INSTANTIATE_TEST_SUITE_P(Variants, SpqrGolden, testing::ValuesIn(GoldenVariants("spqr", "linear-")),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SpqrConfig, ShapesAreThoseOfTheStoredTensors) {
  const TensorMap tensors =
      ReadSafetensors(GoldenRoot() + "/spqr/linear-ptcsr/quantized.safetensors");
  const MemoryModule module(tensors);
  std::map<std::string, Shape> stored;
  for (const auto& [name, tensor] : tensors) stored[module.module() + "." + name] = tensor.shape;
  stored["lm_head.weight"] = {4, 4};
  const std::string config = *SpqrOf()->ConfigOfStored(kConfig, stored);
  const nlohmann::json shapes = nlohmann::json::parse(config)["shapes"];
  EXPECT_EQ(shapes.size(), 4u);
  EXPECT_EQ(shapes["model.layers.0.mlp.up_proj.row_offsets.shape"], 5);
  EXPECT_TRUE(SpqrOf(config)->Decode(module).ok());
  nlohmann::json other = nlohmann::json::parse(config);
  other["shapes"]["model.layers.0.mlp.up_proj.col_vals.shape"] = 7;
  EXPECT_THAT(
      std::string(SpqrOf(other.dump())->Decode(module).status().message()),
      testing::HasSubstr("col_vals: found 640 elements, but quantization_config.shapes says 7"));
}

TEST(SpqrConfig, SkipsBothSpellings) {
  const SpqrConfig config = *ParseSpqrConfig(
      R"({"quant_method": "spqr", "modules_to_not_convert": ["lm_head.weight", "model.layers.0"]})");
  EXPECT_TRUE(config.IsSkipped("lm_head"));
  EXPECT_TRUE(config.IsSkipped("model.layers.0.mlp.up_proj"));
  EXPECT_FALSE(config.IsSkipped("model.layers.1.mlp.up_proj"));
  for (const char* wrong :
       {R"({"quant_method": "spqr", "bits": 4})", R"({"quant_method": "spqr", "beta1": 8})",
        R"({"quant_method": "spqr", "shapes": {"a.shape": -1}})",
        R"({"quant_method": "spqr", "shapes": [1]})"}) {
    EXPECT_EQ(ParseSpqrConfig(wrong).status().code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
}

}  // namespace
}  // namespace quantd

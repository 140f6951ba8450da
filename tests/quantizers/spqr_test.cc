#include "quantizers/codecs/spqr.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/float_types.h"
#include "core/parallel.h"
#include "tests/quantizers/calibrated.h"

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

// The quantizer's settings as the variant's name tells them.
std::map<std::string, std::string> OptionsOf(const std::string& variant) {
  const auto has = [&variant](const char* word) { return variant.find(word) != std::string::npos; };
  return {{"outlier_threshold", has("no-outliers")  ? "none"
                                : has("simplified") ? "0.1"
                                                    : "0.2"},
          {"simplified_outliers", has("simplified") ? "true" : "false"},
          {"permutation_order", has("actorder") ? "act_order" : "identity"},
          {"sparse_strategy", has("ptcsr") ? "ptcsr" : "csr"}};
}

// Upstream's Cholesky sums in another order: the golden data allows 1 of 100 codes to differ, and
// none does.
TEST_P(SpqrGolden, QuantizesToUpstreamsCodes) {
  const TensorMap input = ReadSafetensors(folder() + "/input.safetensors");
  const TensorMap stored = ReadSafetensors(folder() + "/quantized.safetensors");
  const std::vector<float> gram = GramOf(input.at("X_calib"));
  const auto recipe = MakeRecipe("spqr", OptionsOf(GetParam()));
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const QuantizedTensor ours = QuantizeWithGram(**recipe, input.at("weight"), gram, 256);
  const QuantizedTensor theirs = *SpqrOf()->Decode(MemoryModule(stored));
  ASSERT_EQ(ours.codes.size(), theirs.codes.size());
  size_t same = 0;
  for (size_t i = 0; i < ours.codes.size(); ++i) same += ours.codes[i] == theirs.codes[i];
  EXPECT_GE(static_cast<double>(same), 0.99 * static_cast<double>(ours.codes.size()));
  EXPECT_EQ(ours.outliers.row_begin, theirs.outliers.row_begin);
  EXPECT_EQ(ours.input.permutation, theirs.input.permutation);
  EXPECT_LE(LayerError(Dequantize(ours), input.at("weight"), gram),
            1.02 * LayerError(Dequantize(theirs), input.at("weight"), gram));
}

TEST_P(SpqrGolden, ExactOutliersAreWhatTheDensePartLacks) {
  const TensorMap input = ReadSafetensors(folder() + "/input.safetensors");
  const std::vector<float> gram = GramOf(input.at("X_calib"));
  std::map<std::string, std::string> options = OptionsOf(GetParam());
  const QuantizedTensor plain =
      QuantizeWithGram(**MakeRecipe("spqr", options), input.at("weight"), gram, 256);
  options["exact_outliers"] = "true";
  const QuantizedTensor exact =
      QuantizeWithGram(**MakeRecipe("spqr", options), input.at("weight"), gram, 256);
  const double before = LayerError(Dequantize(plain), input.at("weight"), gram);
  const double after = LayerError(Dequantize(exact), input.at("weight"), gram);
  EXPECT_LE(after, (plain.outliers.value.empty() ? 1.0 : 0.6) * before);
}

INSTANTIATE_TEST_SUITE_P(Variants, SpqrGolden, testing::ValuesIn(GoldenVariants("spqr", "linear-")),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TensorMap Input() { return ReadSafetensors(GoldenRoot() + "/spqr/linear-ptcsr/input.safetensors"); }

TEST(Spqr, StopsWhenAskedAndDoesNotDependOnThreads) {
  const TensorMap input = Input();
  const std::vector<float> gram = GramOf(input.at("X_calib"));
  const auto recipe = *MakeRecipe("spqr", {});
  EXPECT_EQ(QuantizeStopped(*recipe, input.at("weight"), gram).code(),
            absl::StatusCode::kCancelled);
  const auto quantize = [&](int threads) {
    SetComputeThreads(threads);
    const QuantizedTensor weight = QuantizeWithGram(*recipe, input.at("weight"), gram, 256);
    SetComputeThreads(0);
    return MemoryModule::ToMap(*recipe->codec()->Encode(weight));
  };
  EXPECT_EQ(Difference(quantize(3), quantize(1)), "");
}

TEST(Spqr, NeedsCalibration) {
  const auto recipe = *MakeRecipe("spqr", {});
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  info.layer = 0;
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->Needs().required());
  EXPECT_EQ(scheme->Quantize(Input().at("weight"), nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(scheme->CheckShape(24, 32).ok());
  EXPECT_FALSE(scheme->CheckShape(32, 32768).ok());
  info.name = "lm_head";
  EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
  for (const char* wrong : {"-1", "inf", "nan", "much"}) {
    EXPECT_FALSE(MakeRecipe("spqr", {{"outlier_threshold", wrong}}).ok()) << wrong;
  }
}

TEST(Spqr, RefusesBrokenTensors) {
  const TensorMap good =
      ReadSafetensors(GoldenRoot() + "/spqr/linear-csr-actorder/quantized.safetensors");
  CheckSpoiltAreRefused(
      *SpqrOf(), good,
      {{"no offsets", Without("row_offsets"), "row_offsets: the tensor is missing"},
       {"no outliers", Without("col_vals"), "col_vals: the tensor is missing"},
       {"no order", Without("in_perm"), "in_perm: the tensor is missing"},
       {"too few words", Zeros("dense_weights", DType::kI64, {383}), "fit no matrix"},
       {"no words", Zeros("dense_weights", DType::kI64, {0}), "fit no matrix"},
       {"a matrix of words", Zeros("dense_weights", DType::kI64, {24, 16}), "one dimension"},
       {"words of 32 bits", Zeros("dense_weights", DType::kI32, {384}), "expected I64"},
       {"high bits", SetElement<uint64_t>("dense_weights", 5, uint64_t{1} << 63), "word 5"},
       {"bytes differ", SetElement<uint64_t>("dense_weights", 3, 0), "word 3 repeats another"},
       {"too few offsets", Zeros("row_offsets", DType::kI32, {64}), "fit no matrix"},
       {"late start", SetElement<int32_t>("row_offsets", 0, 1), "found 1 at element 0"},
       {"falling offsets", SetElement<int32_t>("row_offsets", 9, 100000), "element 10"},
       {"negative offset", SetElement<int32_t>("row_offsets", 1, -1), "found -1 at element 1"},
       {"more outliers", Zeros("col_vals", DType::kI32, {999}), "the 999 elements"},
       {"column too high", SetElement<uint32_t>("col_vals", 2, 96), "element 2 says column 96"},
       {"infinite value", SetElement<uint32_t>("col_vals", 0, 0x7c000000), "element 0 says column"},
       {"column twice", SetElement<uint32_t>("in_perm", 0, 0x00050005), "found 5 at element 1"},
       {"column above", SetElement<uint32_t>("in_perm", 47, 0xffff0000), "in_perm"}});
}

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

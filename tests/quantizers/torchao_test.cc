#include "quantizers/codecs/torchao.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

constexpr absl::string_view kPrefix = "linear.";  // of the module in upstream's files

// The options behind a variant's short name, "intx4wo-g64-asym".
std::map<std::string, std::string> OptionsOf(const std::string& config) {
  const std::vector<std::string> words = absl::StrSplit(config, '-');
  std::map<std::string, std::string> options;
  bool dynamic_intx = false;
  for (const std::string& word : words) {
    if (word == "int8wo") options["quant_type"] = "Int8WeightOnlyConfig";
    if (word == "int8dyn") options["quant_type"] = "Int8DynamicActivationInt8WeightConfig";
    if (word == "int4wo") options["quant_type"] = "Int4WeightOnlyConfig";
    if (word == "float8wo") options["quant_type"] = "Float8WeightOnlyConfig";
    if (absl::StartsWith(word, "intx")) {
      dynamic_intx = words[0] == "int8dyn";
      options["quant_type"] =
          dynamic_intx ? "Int8DynamicActivationIntxWeightConfig" : "IntxWeightOnlyConfig";
      options["weight_dtype"] = absl::StrCat("int", word.substr(4, 1));
    }
    if (word[0] == 'g') options["group_size"] = word.substr(1);
    if (word == "pertensor") options["granularity"] = "PerTensor";
    if (word == "asym")
      options[words[0] == "int8dyn" ? "act_mapping_type" : "mapping_type"] = "ASYMMETRIC";
    if (word == "noclip") options["weight_mapping_type"] = "SYMMETRIC_NO_CLIPPING_ERR";
  }
  return options;
}

struct Golden {
  std::unique_ptr<Recipe> recipe;
  Tensor weight;
  TensorMap quantized;
  nlohmann::json header;  // the text that upstream's header has for the weight
  Tensor dequantized;
};

Golden Load(const std::string& variant) {
  const std::string folder = GoldenRoot() + "/torchao/" + variant;
  const nlohmann::json meta = ReadJson(folder + "/meta.json");
  Golden golden;
  auto recipe = MakeRecipe("torchao", OptionsOf(meta["config"]));
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  golden.recipe = *std::move(recipe);
  golden.weight = ReadSafetensors(folder + "/input.safetensors")["weight"];
  for (auto& [name, tensor] : ReadSafetensors(folder + "/quantized.safetensors")) {
    const std::string local(absl::StripPrefix(name, kPrefix));
    if (local != "bias") golden.quantized[local] = tensor;
  }
  const std::string text = meta["safetensors_metadata"]["linear.weight"];
  golden.header = nlohmann::json::parse(text);
  golden.dequantized = ReadSafetensors(folder + "/expected.safetensors")["weight_dequantized"];
  return golden;
}

std::unique_ptr<Codec> CodecOf(const Golden& golden) {
  const DType dtype = golden.weight.dtype;
  auto codec =
      CodecFor(ConfigWith(golden.recipe->QuantizationConfig(ConfigWith("", dtype)), dtype));
  EXPECT_TRUE(codec.ok()) << codec.status();
  return *std::move(codec);
}

// Upstream divides 0 by 0 in all-zero rows; ours are zeros there.
void ReplaceNan(Tensor* codes) {
  if (codes->dtype != DType::kF8E4M3) return;
  for (std::byte& code : codes->bytes) {
    if ((code & std::byte{0x7f}) == std::byte{0x7f}) code = std::byte{0};
  }
}

class TorchAoGolden : public testing::TestWithParam<std::string> {};

TEST_P(TorchAoGolden, QuantizesToUpstreamsBytes) {
  Golden golden = Load(GetParam());
  ReplaceNan(&golden.quantized["_weight_qdata"]);
  EXPECT_EQ(Difference(QuantizeAndEncode(*golden.recipe, golden.weight), golden.quantized), "");
}

TEST_P(TorchAoGolden, DecodesAndEncodesToTheSameBytes) {
  const Golden golden = Load(GetParam());
  const auto codec = CodecOf(golden);
  const MemoryModule module(golden.quantized);
  ASSERT_TRUE(codec->IsQuantized(module));
  EXPECT_EQ(codec->WeightTensors(module).size(), module.names().size());
  const auto decoded = codec->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), golden.quantized), "");
  EXPECT_EQ(DequantizedDifference(*decoded, golden.dequantized), "");
}

TEST_P(TorchAoGolden, DescribesTheWeightAsUpstreamsHeader) {
  const Golden golden = Load(GetParam());
  const auto texts = CodecOf(golden)->HeaderTexts(
      {{"linear.weight", golden.weight.shape, golden.weight.dtype, true},
       {"linear.bias", {golden.weight.shape[0]}, golden.weight.dtype, false}});
  EXPECT_EQ(nlohmann::json::parse(texts.at("linear.weight")), golden.header);
  EXPECT_EQ(texts.at("linear.bias"), R"({"_type": "Tensor"})");
  EXPECT_EQ(texts.at("tensor_names"), R"(["linear.weight","linear.bias"])");
}

// A module whose file's header says something about its weight.
class DescribedModule final : public MemoryModule {
 public:
  DescribedModule(TensorMap tensors, std::string text)
      : MemoryModule(std::move(tensors)), text_(std::move(text)) {}
  std::string HeaderText(absl::string_view) const override { return text_; }

 private:
  std::string text_;
};

TEST(TorchAoHeader, MustAgreeWithTheConfig) {
  const auto recipe = *MakeRecipe("torchao", {});
  const TensorMap tensors = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {16, 32}));
  const auto codec =
      *CodecFor(ConfigWith(recipe->QuantizationConfig(ConfigWith("", DType::kBF16)), DType::kBF16));
  const std::string good =
      codec->HeaderTexts({{"m.weight", {16, 32}, DType::kF16, true}}).at("m.weight");
  const auto decoded = codec->Decode(DescribedModule(tensors, good));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->dequantized_dtype, DType::kF16);
  for (const auto& [from, to] : {std::pair{"Int8Tensor", "Float8Tensor"},
                                 {"[1,32]", "[16,32]"},
                                 {"float16", "float8_e4m3fn"},
                                 {"{", "["}}) {
    const std::string bad = absl::StrReplaceAll(good, {{from, to}});
    const absl::Status status = codec->Decode(DescribedModule(tensors, bad)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(status.message()), HasSubstr("up_proj.weight"));
  }
}

INSTANTIATE_TEST_SUITE_P(Upstream, TorchAoGolden,
                         testing::ValuesIn(GoldenVariants("torchao", "linear-")));

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/bitnet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "core/float_types.h"
#include "quantizers/codecs/stored_tensors.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

// The configuration that a variant's name stands for.
std::string ConfigOf(const std::string& variant) {
  const bool automatic = absl::StrContains(variant, "autobitlinear");
  const bool online = absl::StrContains(variant, "online");
  return nlohmann::json{{"quant_method", "bitnet"},
                        {"linear_class", automatic ? "autobitlinear" : "bitlinear"},
                        {"quantization_mode", online ? "online" : "offline"},
                        {"use_rms_norm", absl::StrContains(variant, "rmsnorm")}}
      .dump();
}

class BitNetGolden : public testing::TestWithParam<std::string> {
 protected:
  TensorMap Read(const std::string& file) const {
    TensorMap tensors =
        ReadSafetensors(GoldenRoot() + "/bitnet/" + GetParam() + "/" + file + ".safetensors");
    if (file == "quantized") tensors.erase("bias");
    return tensors;
  }
};

TEST_P(BitNetGolden, QuantizesToUpstreamsBytes) {
  const auto recipe = *RecipeFromConfig(ConfigOf(GetParam()));
  const Tensor weight = Read("input")["weight"];
  const QuantizedTensor ternary = *recipe->SchemeFor({}, {})->Quantize(weight, nullptr);
  TensorMap ours = MemoryModule::ToMap(*recipe->codec()->Encode(ternary));
  TensorMap theirs = Read("quantized");
  // A trained norm; ours is of ones.
  EXPECT_EQ(ours.erase("rms_norm.weight"), theirs.erase("rms_norm.weight"));
  // Upstream's model may be narrower than the weights that were quantized for it.
  if (theirs.contains("weight_scale")) {
    ours["weight_scale"] = ConvertTensor(ours["weight_scale"], theirs["weight_scale"].dtype);
  }
  EXPECT_EQ(Difference(ours, theirs), "");
}

TEST_P(BitNetGolden, DecodesAndEncodesToTheSameBytes) {
  const auto codec = *CodecFor(ConfigWith(ConfigOf(GetParam()), DType::kF32));
  const TensorMap stored = Read("quantized");
  const MemoryModule module(stored);
  ASSERT_TRUE(codec->IsQuantized(module));
  const auto decoded = codec->Decode(module);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  ASSERT_TRUE(Validate(*decoded).ok());
  EXPECT_TRUE(decoded->input.int8_tokens);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
  const TensorMap expected = Read("expected");
  if (expected.contains("dequant")) {
    // Values, not bytes: upstream's zeros keep the sign of the weight that was rounded to them. Its
    // online layers round to the dtype they compute in.
    const Tensor& dequantized = expected.at("dequant");
    EXPECT_EQ(decoded->dequantized_dtype, DType::kF32);
    const std::vector<float> values = Dequantize(*decoded);
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(RoundTo(dequantized.dtype, values[i]),
                LoadFloat(dequantized, static_cast<int64_t>(i)))
          << i;
    }
  } else {  // 10 rows of 12
    const std::vector<uint8_t> ternary = Elements<uint8_t>(expected.at("unpacked_padded"));
    ASSERT_EQ(decoded->codes.size(), ternary.size());
    for (size_t i = 0; i < ternary.size(); ++i) {
      ASSERT_EQ(static_cast<int>(decoded->codes[i]) - 1, static_cast<int8_t>(ternary[i]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Upstream, BitNetGolden,
                         testing::ValuesIn(GoldenVariants("bitnet", "linear-")));

TEST(BitNet, TheTwoClassesStoreReciprocalScales) {
  Tensor weight = MakeTensor(DType::kF32, {4, 2});
  const float values[8] = {0.5f, -0.5f, 0.5f, 0.5f, -0.5f, 0.5f, 0.5f, 0.5f};
  std::memcpy(weight.bytes.data(), values, sizeof(values));
  const auto stored = [&](const std::string& linear_class) {
    const auto recipe = *MakeRecipe("bitnet", {{"linear_class", linear_class}});
    return LoadFloat(QuantizeAndEncode(*recipe, weight).at("weight_scale"), 0);
  };
  EXPECT_EQ(stored("bitlinear"), 2);
  EXPECT_EQ(stored("autobitlinear"), 0.5f);
}

TEST(BitNet, RefusesRowsThatAreNotWholeQuarters) {
  const auto recipe = *MakeRecipe("bitnet", {});
  const Scheme* scheme = recipe->SchemeFor({}, {});
  EXPECT_TRUE(scheme->CheckShape(12, 7).ok());
  EXPECT_EQ(scheme->CheckShape(10, 8).code(), StatusCode::kInvalidArgument);
  const auto online =
      *MakeRecipe("bitnet", {{"linear_class", "autobitlinear"}, {"quantization_mode", "online"}});
  EXPECT_TRUE(online->SchemeFor({}, {})->CheckShape(10, 8).ok());
}

TEST(BitNet, OnlineLeavesWhatUpstreamLeaves) {
  ModelConfig config = ConfigWith(ConfigOf("autobitlinear-online"), DType::kF32);
  const auto codec = *CodecFor(config);
  const TensorMap matrix = {{"weight", MakeTensor(DType::kF32, {8, 8})}};
  EXPECT_TRUE(codec->IsQuantized(MemoryModule(matrix)));
  EXPECT_FALSE(codec->IsQuantized(MemoryModule(matrix, "lm_head")));
  EXPECT_FALSE(codec->IsQuantized(MemoryModule(matrix, "model.embed_tokens")));
  const TensorMap norm = {{"weight", MakeTensor(DType::kF32, {8})}};
  EXPECT_FALSE(codec->IsQuantized(MemoryModule(norm, "model.norm")));
}

TEST(BitNet, RefusesWrongConfigsByName) {
  const auto refused = [](const std::string& rest) {
    return RecipeFromConfig("{\"quant_method\": \"bitnet\", " + rest + "}").status();
  };
  for (const auto& [text, key] :
       {std::pair{R"("linear_class": "linear")", "linear_class"},
        {R"("quantization_mode": "offlin")", "quantization_mode"},
        {R"("rms_norm_eps": -1)", "rms_norm_eps"},
        {R"("rms_norm_eps": "1e-6")", "rms_norm_eps"},
        {R"("use_rms_norm": 1)", "use_rms_norm"},
        {R"("modules_to_not_convert": ["("])", "modules_to_not_convert"}}) {
    EXPECT_EQ(refused(text).code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(refused(text).message()), HasSubstr(key));
  }
}

TEST(BitNet, WritesOnlyItsOwnClass) {
  const auto recipe = *MakeRecipe("bitnet", {});
  const auto ternary =
      *recipe->SchemeFor({}, {})->Quantize(MakeTensor(DType::kF32, {4, 4}), nullptr);
  const auto other = *MakeRecipe("bitnet", {{"linear_class", "autobitlinear"}});
  EXPECT_EQ(other->codec()->Encode(ternary).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd

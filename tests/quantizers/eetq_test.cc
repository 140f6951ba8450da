#include "quantizers/codecs/eetq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

constexpr char kConfig[] = R"({"quant_method": "eetq"})";

class EetqGolden : public testing::TestWithParam<std::string> {
 protected:
  TensorMap Read(const std::string& file) const {
    return ReadSafetensors(GoldenRoot() + "/eetq/" + GetParam() + "/" + file + ".safetensors");
  }
};

TEST_P(EetqGolden, QuantizesToUpstreamsBytes) {
  const auto recipe = *RecipeFromConfig(kConfig);
  EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, Read("input")["weight"]), Read("quantized")), "");
}

TEST_P(EetqGolden, DecodesAndEncodesToTheSameBytes) {
  const auto codec = *CodecFor(ConfigWith(kConfig, DType::kF16));
  TensorMap stored = Read("quantized");
  for (const char* name : {"weight", "qweight"}) {
    SCOPED_TRACE(name);
    const MemoryModule module(stored);
    ASSERT_TRUE(codec->IsQuantized(module));
    const auto decoded = codec->Decode(module);
    ASSERT_TRUE(decoded.ok()) << decoded.status();
    ASSERT_TRUE(Validate(*decoded).ok());
    EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
    // Upstream's values lie transposed.
    const Tensor expected = Read("expected")["weight_dequantized_in_out"];
    const std::vector<float> values = Dequantize(*decoded);
    std::vector<float> transposed(values.size());
    for (int64_t row = 0; row < decoded->rows; ++row) {
      for (int64_t col = 0; col < decoded->cols; ++col) {
        transposed[col * decoded->rows + row] = values[row * decoded->cols + col];
      }
    }
    EXPECT_EQ(std::memcmp(transposed.data(), expected.bytes.data(), expected.bytes.size()), 0);
    // EETQ's own package spells it so.
    stored["qweight"] = stored["weight"];
    stored.erase("weight");
  }
}

INSTANTIATE_TEST_SUITE_P(Upstream, EetqGolden,
                         testing::ValuesIn(GoldenVariants("eetq", "linear-")));

TEST(Eetq, UnpackingUndoesPackingAndTouchesEveryByteOnce) {
  std::vector<uint8_t> codes(128 * 64);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 31 + i / 251);
  const std::vector<uint8_t> packed = PackEetq(codes, 128, 64);
  EXPECT_NE(packed, codes);
  EXPECT_EQ(UnpackEetq(packed, 128, 64), codes);
}

TEST(Eetq, RefusesShapesThatTheKernelsCannotTake) {
  const auto recipe = *MakeRecipe("eetq", {});
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->CheckShape(64, 128).ok());
  for (const auto& [rows, cols] : {std::pair{96, 64}, {64, 96}, {1, 64}}) {
    const absl::Status status = scheme->CheckShape(rows, cols);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("multiples of 64"));
    EXPECT_FALSE(scheme->Quantize(MakeTensor(DType::kF16, {rows, cols}), nullptr).ok());
  }
}

TEST(Eetq, RefusesOtherTypesByName) {
  const auto status = RecipeFromConfig(R"({"quant_method": "eetq", "weights": "int4"})").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("weights"));
}

}  // namespace
}  // namespace quantd

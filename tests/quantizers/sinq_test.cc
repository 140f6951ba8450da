#include "quantizers/codecs/sinq.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/float_types.h"
#include "core/parallel.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

class SinqGolden : public GoldenVariant {
 protected:
  SinqGolden() : GoldenVariant("sinq") {}
};

// Torch's logarithms and exponentials are MKL's, of which 1 in 100 is off by an ulp, ours never.
// That reaches a stored number only where it is that close to the middle between two: in none of
// these.
TEST_P(SinqGolden, QuantizesToUpstreamsBytes) { ExpectQuantizesToUpstreamsBytes(); }

TEST_P(SinqGolden, DecodesAndEncodesToTheSameBytes) {
  const Tensor expected = Read("expected")["weight_dequantized"];
  QuantizedTensor decoded;
  ASSERT_NO_FATAL_FAILURE(DecodeAndEncode(expected.dtype, &decoded));
  EXPECT_EQ(DequantizedDifference(decoded, expected), "");
}

INSTANTIATE_TEST_SUITE_P(Upstream, SinqGolden,
                         testing::ValuesIn(GoldenVariants("sinq", "linear-")));

TEST(Sinq, DoesNotDependOnThreads) {
  Tensor weight = MakeTensor(DType::kF32, {32, 192});
  std::vector<float> values;
  for (int i = 0; i < 32 * 192; ++i) values.push_back(std::sin(0.1f * (i * i % 6001)) * (i % 7));
  StoreFloats(DType::kF32, values.data(), 32 * 192, weight.bytes.data());
  const auto recipe = *MakeRecipe("sinq", {});
  SetComputeThreads(1);
  const TensorMap alone = QuantizeAndEncode(*recipe, weight);
  SetComputeThreads(3);
  EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, weight), alone), "");
  SetComputeThreads(0);
}

TEST(Sinq, WritesWhatUpstreamsLoaderAsksFor) {
  const auto recipe = *MakeRecipe("sinq", {{"nbits", "3"}});
  ModelConfig config;
  config.dtype = DType::kF16;
  ModuleInfo module;
  module.name = "model.layers.0.mlp.up_proj";
  module.rows = 96;
  module.cols = 128;
  const auto files = recipe->ExtraFiles(config, {module});
  const nlohmann::json meta = nlohmann::json::parse(files.at(kSinqMetaFile));
  const nlohmann::json expected = {{"nbits", 3},
                                   {"group_size", 64},
                                   {"shape", {96, 128}},
                                   {"scale.shape", {192, 1}},
                                   {"awq_scale", nullptr},
                                   {"zero.shape", {192, 1}},
                                   {"axis", 1},
                                   {"packing", "3bit_32"},
                                   {"method", "sinq_quantAux"},
                                   {"compute_dtype", "torch.float16"},
                                   {"unpack_view_dtype", "torch.int32"},
                                   {"view_as_float", false}};
  EXPECT_EQ(meta["model.layers.0.mlp.up_proj"]["meta"], expected);
}

TEST(Sinq, RefusesWhatDoesNotFitByName) {
  const auto status = [](const std::string& fields) {
    return RecipeFromConfig(R"({"quant_method": "sinq", )" + fields + "}").status();
  };
  EXPECT_THAT(std::string(status(R"("nbits": 7)").message()), HasSubstr("5, 6 or 8"));
  EXPECT_THAT(std::string(status(R"("group_size": 8)").message()), HasSubstr("group_size"));
  EXPECT_THAT(std::string(status(R"("tiling_mode": "2D")").message()), HasSubstr("tiling_mode"));
  EXPECT_THAT(std::string(status(R"("method": "dual")").message()), HasSubstr("asinq"));
  EXPECT_EQ(status(R"("method": "asinq")").code(), absl::StatusCode::kUnimplemented);
  const auto recipe = *MakeRecipe("sinq", {});
  ModuleInfo info;
  info.name = "lm_head";
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->CheckShape(32, 64).ok());
  EXPECT_TRUE(scheme->CheckShape(32, 96).ok());   // groups of 32
  EXPECT_FALSE(scheme->CheckShape(16, 64).ok());  // 16 scales
  EXPECT_FALSE(scheme->CheckShape(32, 40).ok());
  // A group that is all one value, far from 0, has a zero point of -4e6.
  Tensor weight = MakeTensor(DType::kF32, {32, 64});
  const std::vector<float> line(64, 30.0f);
  StoreFloats(DType::kF32, line.data(), 64, weight.bytes.data());
  EXPECT_THAT(std::string(scheme->Quantize(weight.view(), nullptr).status().message()),
              HasSubstr("float16"));
}

TEST(Sinq, RefusesTensorsOfAnotherShapeOrType) {
  const auto recipe = *MakeRecipe("sinq", {});
  const TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {32, 64}));
  const auto codec = *CodecFor(ConfigWith(recipe->QuantizationConfig({}), DType::kBF16));
  ASSERT_TRUE(codec->Decode(MemoryModule(stored)).ok());
  for (const auto& [name, tensor] : stored) {
    TensorMap broken = stored;
    broken.erase(name);
    EXPECT_FALSE(codec->Decode(MemoryModule(broken)).ok()) << name;
    broken[name] = MakeTensor(DType::kI16, {8, 2});
    EXPECT_FALSE(codec->Decode(MemoryModule(broken)).ok()) << name;
  }
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/fp_quant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/float_types.h"
#include "core/hadamard.h"
#include "core/parallel.h"
#include "tests/quantizers/golden.h"
#include "tests/random_floats.h"

namespace quantd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<float> Floats(const Tensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.view().elements()));
  LoadFloats(tensor, 0, tensor.view().elements(), values.data());
  return values;
}

Tensor Bf16(Shape shape, const std::vector<float>& values) {
  Tensor tensor = MakeTensor(DType::kBF16, std::move(shape));
  StoreFloats(DType::kBF16, values.data(), static_cast<int64_t>(values.size()),
              tensor.bytes.data());
  return tensor;
}

std::string ConfigOf(const std::string& fields) {
  return R"({"quant_method": "fp_quant", )" + fields + "}";
}

std::unique_ptr<Codec> CodecOf(const Recipe& recipe) {
  return *CodecFor(ConfigWith(recipe.QuantizationConfig({}), DType::kBF16));
}

class FpQuantGolden : public GoldenVariant {
 protected:
  FpQuantGolden() : GoldenVariant("fp_quant") {}
};

TEST_P(FpQuantGolden, QuantizesToUpstreamsBytes) { ExpectQuantizesToUpstreamsBytes(); }

TEST_P(FpQuantGolden, DecodesAndEncodesToTheSameBytes) {
  QuantizedTensor decoded;
  ASSERT_NO_FATAL_FAILURE(DecodeAndEncode(DType::kBF16, &decoded));
  EXPECT_EQ(DequantizedDifference(decoded, Read("quantized")["dqweight"]), "");
}

// The codes behind the stored values are those that were quantized, but where a block has others
// that mean the same.
TEST_P(FpQuantGolden, FindsCodesInStoredValues) {
  const auto recipe = *RecipeFromConfig(Config());
  const auto codec = *CodecFor(ConfigWith(Config(), DType::kBF16));
  const QuantizedTensor decoded = *codec->Decode(MemoryModule(Read("quantized")));
  ModuleInfo module;
  module.name = "model.layers.0.mlp.up_proj";
  const Scheme* scheme = recipe->SchemeFor(module, ModelConfig());
  const QuantizedTensor quantized = *scheme->Quantize(Read("input")["weight"], nullptr);
  int64_t same = 0;
  for (size_t i = 0; i < decoded.scale.size(); ++i) same += decoded.scale[i] == quantized.scale[i];
  EXPECT_GT(same, 0.75 * decoded.scale.size());
}

TEST_P(FpQuantGolden, RoundsInputsAsUpstream) {
  const auto codec = *CodecFor(ConfigWith(Config(), DType::kBF16));
  const QuantizedTensor weight = *codec->Decode(MemoryModule(Read("quantized")));
  TensorMap golden = Read("expected");
  const std::vector<float> x = Floats(golden["inputs"]);
  const std::vector<float> expected = Floats(golden["inputs_rounded"]);
  std::vector<float> rotated = x, rounded(x.size());
  if (!weight.input.rotation.empty()) {
    MultiplyByMatrix(x.data(), static_cast<int64_t>(x.size()), weight.input.rotation.data(),
                     weight.input.hadamard_size, rotated.data());
  }
  for (size_t row = 0; row < x.size(); row += weight.cols) {
    RoundInputs(weight.input.rounding, &rotated[row], weight.cols, &rounded[row]);
  }
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(rounded[i], expected[i]) << i;
}

INSTANTIATE_TEST_SUITE_P(Upstream, FpQuantGolden,
                         testing::ValuesIn(GoldenVariants("fp_quant", "linear-")));

// QuTLASS' arithmetic, as its source has it: ties to even, zeros keep their sign.
TEST(FpQuant, CodesForQutlass) {
  std::vector<float> block(32);
  const float some[] = {6, -6, 5, 3.5f, 2.5f, 1.75f, 1.25f, 0.75f, 0.25f, -0.25f, 0.3f, -5.1f};
  std::copy(std::begin(some), std::end(some), block.begin());
  const auto codes = [&](const Fp4Blocks& blocks, float factor, float* scale) {
    std::vector<float> x;
    for (const float value : block) x.push_back(value * factor);
    std::vector<uint8_t> out(32);
    *scale = EncodeFp4Block(blocks, x.data(), blocks.size(), out.data());
    return std::vector<uint8_t>(out.begin(), out.begin() + 12);
  };
  using Scale = Fp4Blocks::Scale;
  float scale = 0;
  // The power of two of the largest, 2, is 2: codes are of 3 x / 2, half of the values above.
  EXPECT_THAT(codes({Scale::kPowerOfMax, 3, true}, 1 / 3.0f, &scale),
              ElementsAre(5, 13, 4, 4, 2, 2, 1, 1, 0, 8, 0, 13));
  EXPECT_EQ(scale, 2);
  EXPECT_THAT(codes({Scale::kE4M3OfMax, 3, true}, 0.5f, &scale),
              ElementsAre(7, 15, 6, 6, 4, 4, 2, 2, 0, 8, 1, 15));
  EXPECT_EQ(scale, 1.5f);
  EXPECT_THAT(codes({Scale::kE4M3OfMax, 3, false}, 0.5f, &scale),
              ElementsAre(7, 15, 6, 5, 4, 3, 2, 1, 0, 8, 1, 15));
  // Beyond 448 E4M3 ends, and codes at 6.
  block[0] = 1e4f;
  EXPECT_EQ(codes({Scale::kE4M3OfMax, 3, true}, 1, &scale)[0], 7);
  EXPECT_EQ(scale, 448);
}

// Both forms stand for nearly the same matrix: they differ in ties and in the last bit of float32.
TEST(FpQuant, FormsAgree) {
  const Tensor weight = Bf16({24, 256}, RandomFloats(24 * 256, 3, 0.02f));
  for (const std::string type :
       {R"("forward_dtype": "nvfp4")", R"("forward_dtype": "mxfp4")",
        R"("forward_dtype": "mxfp4", "forward_method": "quest", "hadamard_group_size": 128)"}) {
    SCOPED_TRACE(type);
    const auto decoded = [&](const std::string& form) {
      const auto recipe = *RecipeFromConfig(ConfigOf(type + form));
      return *CodecOf(*recipe)->Decode(MemoryModule(QuantizeAndEncode(*recipe, weight)));
    };
    const QuantizedTensor real = decoded(""), pseudo = decoded(R"(, "pseudoquantization": true)");
    EXPECT_TRUE(real.input.rounding.fp4.half_to_even);
    EXPECT_FALSE(pseudo.input.rounding.fp4.half_to_even);
    const std::vector<float> a = Dequantize(real), b = Dequantize(pseudo);
    int differ = 0;
    for (size_t i = 0; i < a.size(); ++i) differ += RoundTo(DType::kBF16, a[i]) != b[i];
    EXPECT_LT(differ, 30);
    const QuantizedTensor master = decoded(R"(, "store_master_weights": true)");
    EXPECT_EQ(Dequantize(master), a);
    EXPECT_EQ(master.unquantized->bytes, weight.bytes);
  }
}

TEST(FpQuant, WritesWhatUpstreamReads) {
  const auto recipe = *MakeRecipe("fp_quant", {{"forward_dtype", "mxfp4"}});
  const TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {40, 96}));
  ASSERT_EQ(stored.size(), 6u);
  EXPECT_EQ(stored.at("qweight").shape, (Shape{40, 48}));
  EXPECT_EQ(stored.at("scales").shape, (Shape{40, 3}));
  // The exponent of 1e-8, which keeps zeros from being divided by zero.
  EXPECT_EQ(stored.at("scales").bytes[0], std::byte{100});
  EXPECT_EQ(Floats(stored.at("weight_global_scale")), std::vector<float>{3});
  EXPECT_EQ(stored.at("forward_hadamard_matrix").bytes,
            stored.at("backward_hadamard_matrix").bytes);
  const nlohmann::json config = nlohmann::json::parse(recipe->QuantizationConfig({}));
  EXPECT_EQ(config["hadamard_group_size"], 32);
  EXPECT_EQ(config["modules_to_not_convert"], nlohmann::json({"lm_head"}));
}

// Scales in QuTLASS' tiles, whatever lies in what they are padded with, and tensors without
// elements, as a checkpoint has them that Transformers loaded and saved again.
TEST(FpQuant, KeepsPaddingAndEmptyTensors) {
  const auto recipe = *MakeRecipe("fp_quant", {{"hadamard_group_size", "32"}});
  const Tensor weight = Bf16({130, 96}, RandomFloats(130 * 96, 4));
  const TensorMap plain = QuantizeAndEncode(*recipe, weight);
  const auto codec = CodecOf(*recipe);
  TensorMap padded = plain;
  Tensor tiles = MakeTensor(DType::kU8, {256, 8});
  std::fill(tiles.bytes.begin(), tiles.bytes.end(), std::byte{0x7f});  // NaN
  for (int row = 0; row < 130; ++row) {
    std::copy_n(plain.at("scales").bytes.begin() + row * 6, 6, tiles.bytes.begin() + row * 8);
  }
  padded["scales"] = tiles;
  padded["weight"] = padded["dqweight"] = MakeTensor(DType::kF32, {0});
  const auto decoded = codec->Decode(MemoryModule(padded));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Dequantize(*decoded), Dequantize(*codec->Decode(MemoryModule(plain))));
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), padded), "");
}

// A rotation that is neither of upstream's, and another for gradients.
TEST(FpQuant, TakesTheRotationOfTheFile) {
  const auto recipe = *MakeRecipe("fp_quant", {});
  const Tensor weight = Bf16({3, 32}, RandomFloats(96, 5));
  TensorMap stored = QuantizeAndEncode(*recipe, weight);
  std::vector<float> halves = RandomFloats(256, 6);
  for (float& value : halves) value = RoundTo(DType::kBF16, value);
  stored["forward_hadamard_matrix"] = Bf16({16, 16}, halves);
  const auto codec = CodecOf(*recipe);
  const QuantizedTensor decoded = *codec->Decode(MemoryModule(stored));
  EXPECT_EQ(decoded.input.rotation, halves);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(decoded)), stored), "");
  // What multiplies plain inputs: x (W R^T)^T = (x R) W^T.
  std::vector<float> plain(96);
  PlainRows(decoded, 0, 3, plain.data());
  const std::vector<float> rotated = Dequantize(decoded), x = RandomFloats(32, 7);
  std::vector<float> turned(32);
  MultiplyByMatrix(x.data(), 32, halves.data(), 16, turned.data());
  for (int row = 0; row < 3; ++row) {
    double a = 0, b = 0;
    for (int c = 0; c < 32; ++c) {
      a += static_cast<double>(x[c]) * plain[row * 32 + c];
      b += static_cast<double>(turned[c]) * rotated[row * 32 + c];
    }
    EXPECT_NEAR(a, b, 1e-5);
  }
}

// The exporter of the research code multiplies by scales in bfloat16.
TEST(FpQuant, FindsScalesOfOtherPrograms) {
  const auto recipe = *MakeRecipe("fp_quant", {{"pseudoquantization", "true"}});
  TensorMap stored = QuantizeAndEncode(*recipe, MakeTensor(DType::kBF16, {2, 16}));
  const float values[] = {0, -0.5f, 1, 1.5f, -2, 3, 4, -6, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  std::vector<float> line;
  for (const float scale : {0.0123f, 7.77f}) {
    for (const float value : values) line.push_back(value * RoundTo(DType::kBF16, scale));
  }
  stored["dqweight"] = Bf16({2, 16}, line);
  const auto codec = CodecOf(*recipe);
  const auto decoded = codec->Decode(MemoryModule(stored));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), stored), "");
  line[20] *= 1.1f;
  stored["dqweight"] = Bf16({2, 16}, line);
  EXPECT_THAT(std::string(codec->Decode(MemoryModule(stored)).status().message()),
              HasSubstr("up_proj.dqweight: row 1, block 0"));
}

TEST(FpQuant, HardValuesGiveFiniteNumbers) {
  std::vector<float> values(4 * 128, 3.3e38f);
  for (int i = 0; i < 128; ++i) {
    if (i % 64 >= 32) values[i] = -3.3e38f;
    values[128 + i] = 1e-39f * static_cast<float>(i);
    values[256 + i] = i % 2 == 0 ? 3e38f : -3e38f;
    values[384 + i] = i == 5 ? 1e30f : 1e-30f;
  }
  const Tensor weight = Bf16({4, 128}, values);
  for (const std::string type : {"nvfp4", "mxfp4"}) {
    for (const std::string pseudo : {"false", "true"}) {
      for (const std::string transform : {"hadamard", "identity"}) {
        SCOPED_TRACE(type + pseudo + transform);
        const auto recipe = *MakeRecipe("fp_quant", {{"forward_dtype", type},
                                                     {"pseudoquantization", pseudo},
                                                     {"transform_init", transform},
                                                     {"hadamard_group_size", "64"}});
        const TensorMap stored = QuantizeAndEncode(*recipe, weight);
        const auto decoded = CodecOf(*recipe)->Decode(MemoryModule(stored));
        ASSERT_TRUE(decoded.ok()) << decoded.status();
        const std::vector<float> found = Dequantize(*decoded);
        for (const float value : found) ASSERT_TRUE(std::isfinite(value));
        // 32 numbers and the same less than zero: nothing is left, though sums overflow on the way.
        if (transform == "hadamard") {
          EXPECT_EQ(found[0], 0);
        }
      }
    }
  }
}

TEST(FpQuant, DoesNotDependOnThreads) {
  const Tensor weight = Bf16({33, 256}, RandomFloats(33 * 256, 8));
  const auto recipe = *MakeRecipe("fp_quant", {{"transform_init", "gsr"}});
  SetComputeThreads(1);
  const TensorMap alone = QuantizeAndEncode(*recipe, weight);
  SetComputeThreads(3);
  EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, weight), alone), "");
  SetComputeThreads(0);
}

TEST(FpQuant, RefusesWhatUpstreamRefusesByName) {
  const auto status = [](const std::string& fields) {
    return RecipeFromConfig(ConfigOf(fields)).status();
  };
  const std::pair<const char*, const char*> cases[] = {
      {R"("forward_dtype": "mxfp8")", "forward_dtype: found \"mxfp8\", expected nvfp4 or mxfp4"},
      {R"("forward_dtype": 4)", "forward_dtype"},
      {R"("forward_method": "quest")", "expected abs_max for nvfp4"},
      {R"("forward_dtype": "mxfp4", "forward_method": "max")", "abs_max or quest"},
      {R"("forward_dtype": "mxfp4", "hadamard_group_size": 16)", "32, 64 or 128 for mxfp4"},
      {R"("hadamard_group_size": 256)", "16, 32, 64 or 128 for nvfp4"},
      {R"("hadamard_group_size": 0)", "hadamard_group_size"},
      {R"("hadamard_group_size": -16)", "hadamard_group_size"},
      {R"("hadamard_group_size": 9223372036854775808)", "hadamard_group_size"},
      {R"("backward_dtype": "mxfp8")", "expected bf16 for nvfp4"},
      {R"("forward_dtype": "mxfp4", "backward_dtype": "mxfp4")", "store_master_weights"},
      {R"("forward_dtype": "mxfp4", "backward_dtype": "mxfp8", "pseudoquantization": true)",
       "pseudoquantization"},
      {R"("transform_init": "dct")", "hadamard or identity or gsr"},
      {R"("modules_to_not_convert": "lm_head")", "modules_to_not_convert"},
      {R"("pseudoquantization": "yes")", "pseudoquantization"},
  };
  for (const auto& [fields, message] : cases) {
    EXPECT_EQ(status(fields).code(), absl::StatusCode::kInvalidArgument) << fields;
    EXPECT_THAT(std::string(status(fields).message()), HasSubstr(message));
  }
  EXPECT_TRUE(status(R"("forward_dtype": "mxfp4", "hadamard_group_size": null)").ok());
  EXPECT_TRUE(status(R"("forward_dtype": "mxfp4", "backward_dtype": "mxfp8")").ok());
  EXPECT_EQ(MakeRecipe("fp_quant", {{"hadamard_group_size", "48"}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(FpQuant, KeepsModulesByTheEndsOfTheirNames) {
  const auto recipe = *MakeRecipe("fp_quant", {{"modules_to_not_convert", "head,0.q_proj"}});
  ModuleInfo info;
  for (const char* kept : {"lm_head", "model.layers.10.q_proj"}) {
    info.name = kept;
    EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
  }
  info.name = "model.layers.1.q_proj";
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_TRUE(scheme->CheckShape(1, 48).ok());
  EXPECT_THAT(std::string(scheme->CheckShape(1, 40).message()),
              HasSubstr("modules_to_not_convert"));
}

}  // namespace
}  // namespace quantd

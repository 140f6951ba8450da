// Every codec at odd sizes and hard values: quantize, encode, decode, encode again.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

struct Case {
  std::string method;
  std::map<std::string, std::string> options;
  double bound;          // relative error of normally distributed weights
  int64_t multiple = 1;  // of rows and columns, where the layout needs it

  int64_t Fit(int64_t size) const { return (size + multiple - 1) / multiple * multiple; }
};

// Schemes that take any shape, then those that need multiples of 32 columns.
std::vector<Case> AnyShape() {
  return {
      {"bitsandbytes", {{"bnb_4bit_quant_type", "nf4"}}, 0.12},
      {"bitsandbytes", {{"bnb_4bit_use_double_quant", "true"}}, 0.16},
      {"bitsandbytes", {{"bnb_4bit_blocksize", "4096"}}, 0.3},
      {"bitsandbytes", {{"bits", "8"}}, 0.02},
      {"compressed-tensors", {{"scheme", "W8A16"}}, 0.02},
      {"compressed-tensors",
       {{"num_bits", "5"}, {"group_size", "-1"}, {"symmetric", "false"}},
       0.1},
      {"compressed-tensors", {{"num_bits", "3"}, {"strategy", "tensor"}}, 0.8},
      {"compressed-tensors",
       {{"num_bits", "8"}, {"strategy", "tensor"}, {"symmetric", "false"}},
       0.05},
      {"compressed-tensors", {{"scheme", "W8A8"}}, 0.02},
      {"compressed-tensors", {{"scheme", "FP8_DYNAMIC"}}, 0.05},
      {"compressed-tensors", {{"scheme", "FP8_BLOCK"}}, 0.05},
      {"fp8", {{"weight_block_size", "none"}}, 0.05},
      {"fbgemm_fp8", {}, 0.05},
      {"eetq", {}, 0.02, 64},
      {"higgs", {{"hadamard_size", "128"}, {"group_size", "64"}, {"dtype", "bfloat16"}}, 0.12, 128},
      {"higgs",
       {{"bits", "2"}, {"p", "1"}, {"hadamard_size", "256"}, {"dtype", "bfloat16"}},
       0.5,
       256},
      {"quark", {{"dtype", "int8"}, {"qscheme", "per_channel"}}, 0.02},
      {"quark", {{"dtype", "uint8"}, {"qscheme", "per_tensor"}, {"symmetric", "false"}}, 0.05},
      {"quark", {{"dtype", "int2"}, {"qscheme", "per_channel"}}, 1},
      {"quark", {{"dtype", "fp8_e4m3"}}, 0.05},
      {"quark", {{"dtype", "fp8_e5m2"}, {"qscheme", "per_channel"}}, 0.1},
      {"quark", {{"bits", "16"}}, 0.01},
      {"quark", {{"qscheme", "per_channel"}}, 0.3, 8},
      {"quark", {{"qscheme", "per_tensor"}}, 0.5, 8},
      {"quark", {{"group_size", "8"}}, 0.15, 8},
      {"quark",
       {{"dtype", "uint4"}, {"group_size", "8"}, {"symmetric", "false"}, {"pack_method", "order"}},
       0.15,
       8},
      {"quark", {{"bits", "3"}, {"group_size", "8"}}, 0.3, 64},
      {"quark", {{"dtype", "uint2"}, {"group_size", "4"}, {"symmetric", "false"}}, 0.4, 4},
      {"torchao", {}, 0.02},
      {"torchao", {{"granularity", "PerTensor"}}, 0.02},
      {"torchao",
       {{"quant_type", "Int8DynamicActivationInt8WeightConfig"}, {"reduce_range", "true"}},
       0.04},
      {"torchao", {{"bits", "5"}, {"mapping_type", "ASYMMETRIC"}}, 0.1},
      {"torchao", {{"bits", "3"}, {"mapping_type", "SYMMETRIC_NO_CLIPPING_ERR"}}, 0.5},
      {"torchao", {{"bits", "6"}, {"scale_dtype", "float16"}}, 0.1},
      {"torchao", {{"quant_type", "Float8WeightOnlyConfig"}}, 0.05},
      {"torchao", {{"quant_type", "Float8WeightOnlyConfig"}, {"weight_dtype", "float8_e5m2"}}, 0.1},
      {"hqq", {{"nbits", "8"}, {"group_size", "none"}, {"compute_dtype", "float32"}}, 0.02},
      {"hqq",
       {{"nbits", "3"}, {"group_size", "none"}, {"axis", "0"}, {"compute_dtype", "bfloat16"}},
       0.4},
      {"quanto", {}, 0.02},
      {"quanto", {{"weights", "int4"}}, 0.2},
      {"quanto", {{"weights", "int2"}}, 0.8},
      {"quanto", {{"weights", "float8"}}, 0.05},
      {"quanto", {{"weights", "float8_e4m3fnuz"}}, 0.05},
      {"quanto", {{"weights", "float8_e5m2"}}, 0.1},
      {"fouroversix", {}, 0.12},
      {"fouroversix", {{"scale_rule", "abs_max"}, {"weight_scale_2d", "true"}}, 0.15},
      {"fouroversix", {{"dtype", "mxfp4"}}, 0.2},
      {"fp_quant", {}, 0.13, 16},
      {"fp_quant", {{"transform_init", "gsr"}, {"pseudoquantization", "true"}}, 0.13, 16},
      {"fp_quant", {{"transform_init", "identity"}, {"store_master_weights", "true"}}, 0.13, 16},
      {"fp_quant", {{"forward_dtype", "mxfp4"}}, 0.16, 32},
      {"fp_quant",
       {{"forward_dtype", "mxfp4"}, {"forward_method", "quest"}, {"pseudoquantization", "true"}},
       0.2,
       32},
      {"metal", {{"group_size", "16"}}, 0.15, 16},
      {"metal", {{"bits", "2"}, {"group_size", "16"}}, 0.6, 16},
      {"metal", {{"bits", "8"}, {"group_size", "4"}}, 0.02, 4},
      {"sinq", {}, 0.2, 32},
      {"sinq", {{"nbits", "3"}, {"group_size", "32"}}, 0.4, 32},
      {"sinq", {{"nbits", "8"}}, 0.05, 32},
      {"bitnet", {}, 0.8, 4},
      {"bitnet", {{"linear_class", "autobitlinear"}, {"use_rms_norm", "true"}}, 0.8, 4},
      {"bitnet", {{"linear_class", "autobitlinear"}, {"quantization_mode", "online"}}, 0.8},
  };
}

std::vector<Case> Grouped() {
  return {
      {"compressed-tensors", {{"num_bits", "4"}, {"group_size", "32"}}, 0.15},
      {"compressed-tensors",
       {{"num_bits", "3"}, {"group_size", "32"}, {"symmetric", "false"}},
       0.3},
      {"compressed-tensors", {{"scheme", "NVFP4A16"}}, 0.15},
      {"compressed-tensors", {{"scheme", "MXFP4A16"}}, 0.2},
      {"compressed-tensors", {{"scheme", "MXFP6A16"}}, 0.1},
      {"compressed-tensors", {{"scheme", "MXFP8A16"}}, 0.1},
      {"fp8", {{"weight_block_size", "1,32"}, {"scale_fmt", "ue8m0"}}, 0.1},
      {"quark", {{"dtype", "int8"}, {"group_size", "32"}}, 0.02},
      {"quark", {{"dtype", "int8"}, {"group_size", "32"}, {"symmetric", "false"}}, 0.02},
      {"quark", {{"dtype", "int2"}, {"group_size", "32"}}, 0.8},
      {"quark", {{"dtype", "fp4"}}, 0.2},
      {"quark", {{"dtype", "fp4"}, {"scale_calculation_mode", "ceil"}}, 0.3},
      {"quark", {{"dtype", "fp6_e2m3"}, {"scale_calculation_mode", "floor"}}, 0.1},
      {"quark", {{"dtype", "fp6_e3m2"}}, 0.1},
      {"torchao", {{"bits", "4"}, {"group_size", "32"}}, 0.15},
      {"torchao", {{"bits", "8"}, {"group_size", "32"}}, 0.02},
      {"torchao", {{"bits", "2"}, {"group_size", "32"}}, 0.8},
      {"torchao",
       {{"quant_type", "IntxWeightOnlyConfig"},
        {"weight_dtype", "int4"},
        {"group_size", "16"},
        {"intx_choose_qparams_algorithm", "HQQ_SCALE_ONLY"}},
       0.15},
      {"torchao",
       {{"quant_type", "Int8DynamicActivationIntxWeightConfig"},
        {"weight_mapping_type", "ASYMMETRIC"}},
       0.02},
      {"torchao", {{"quant_type", "Float8WeightOnlyConfig"}, {"group_size", "32"}}, 0.05},
      {"hqq", {{"nbits", "4"}, {"group_size", "16"}, {"compute_dtype", "float32"}}, 0.1},
      {"hqq",
       {{"nbits", "2"}, {"group_size", "32"}, {"axis", "0"}, {"compute_dtype", "float32"}},
       0.5},
  };
}

Tensor MatrixOf(DType dtype, int64_t rows, int64_t cols, const std::vector<float>& values) {
  Tensor tensor = MakeTensor(dtype, {rows, cols});
  StoreFloats(dtype, values.data(), rows * cols, tensor.bytes.data());
  return tensor;
}

std::vector<float> Normal(int64_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0, 0.05f);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Quantizes and encodes, decodes what came out and encodes it again.
QuantizedTensor RoundTrip(const Case& c, const Tensor& weight) {
  const auto recipe = MakeRecipe(c.method, c.options);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  const TensorMap first = QuantizeAndEncode(**recipe, weight);
  const MemoryModule module(first);
  ModuleInfo info;
  info.name = module.module();
  info.rows = weight.shape[0];
  info.cols = weight.shape[1];
  const std::string config = (*recipe)->QuantizationConfigFor(ConfigWith("", weight.dtype), {info});
  const auto codec = *CodecFor(ConfigWith(config, weight.dtype));
  const auto decoded = codec->Decode(module);
  EXPECT_TRUE(decoded.ok()) << decoded.status();
  if (!decoded.ok()) return {};
  EXPECT_TRUE(Validate(*decoded).ok()) << Validate(*decoded);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), first), "");
  return *decoded;
}

// What the weight multiplies inputs with.
std::vector<float> Plain(const QuantizedTensor& quantized) {
  std::vector<float> values(static_cast<size_t>(quantized.rows * quantized.cols));
  PlainRows(quantized, 0, quantized.rows, values.data());
  return values;
}

double RelativeError(const std::vector<float>& found, const Tensor& weight) {
  double error = 0;
  double norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double value = LoadFloat(weight, static_cast<int64_t>(i));
    error += (found[i] - value) * (found[i] - value);
    norm += value * value;
  }
  return std::sqrt(error / norm);
}

TEST(RoundTrips, OddSizes) {
  for (const Case& c : AnyShape()) {
    for (const auto& [least_rows, least_cols] : {std::pair{1, 1}, {1, 31}, {33, 129}, {129, 33}}) {
      const int64_t rows = c.Fit(least_rows), cols = c.Fit(least_cols);
      for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
        SCOPED_TRACE(absl::StrCat(c.method, " ", rows, "x", cols, " ", InfoOf(dtype).torch_name));
        const Tensor weight = MatrixOf(dtype, rows, cols, Normal(rows * cols));
        const QuantizedTensor quantized = RoundTrip(c, weight);
        if (rows > 1) {
          EXPECT_LT(RelativeError(Plain(quantized), weight), c.bound);
        }
      }
    }
  }
}

TEST(RoundTrips, Groups) {
  for (const Case& c : Grouped()) {
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      SCOPED_TRACE(c.method + " " + (c.options.contains("scheme") ? c.options.at("scheme") : ""));
      const Tensor weight = MatrixOf(dtype, 33, 96, Normal(33 * 96));
      const QuantizedTensor quantized = RoundTrip(c, weight);
      EXPECT_LT(RelativeError(Plain(quantized), weight), c.bound);
    }
  }
}

TEST(RoundTrips, HardValuesGiveFiniteScalesAndExactZeros) {
  std::vector<Case> cases = AnyShape();
  for (const Case& c : Grouped()) cases.push_back(c);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.method + " " + (c.options.contains("scheme") ? c.options.at("scheme") : ""));
    const int64_t rows = c.Fit(2), cols = c.Fit(32);
    for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
      const float huge = dtype == DType::kF16 ? 65504.0f : 3e38f;
      for (const float value : {huge, -huge, 1e-30f, 1e-39f, 1e-45f}) {
        std::vector<float> values(rows * cols, 0.0f);
        values[3] = value;
        values[40] = -value;
        const QuantizedTensor quantized = RoundTrip(c, MatrixOf(dtype, rows, cols, values));
        for (const float scale : quantized.scale) EXPECT_TRUE(std::isfinite(scale)) << value;
      }
      const QuantizedTensor zero =
          RoundTrip(c, MatrixOf(dtype, rows, cols, std::vector<float>(rows * cols, 0.0f)));
      // A scale and an offset that were rounded apart leave 1e-6 / 15 at most.
      const float bound = zero.offset.empty() ? 0 : 1e-6f / 15;
      for (const float value : Dequantize(zero)) ASSERT_LE(std::abs(value), bound);
    }
  }
}

TEST(RoundTrips, BytesDoNotDependOnTheNumberOfThreads) {
  std::vector<Case> cases = AnyShape();
  for (const Case& c : Grouped()) cases.push_back(c);
  const Tensor weight = MatrixOf(DType::kBF16, 256, 256, Normal(256 * 256));
  for (const Case& c : cases) {
    const auto recipe = *MakeRecipe(c.method, c.options);
    SetComputeThreads(1);
    const TensorMap one = QuantizeAndEncode(*recipe, weight);
    SetComputeThreads(3);
    EXPECT_EQ(Difference(QuantizeAndEncode(*recipe, weight), one), "") << c.method;
    SetComputeThreads(0);
  }
}

TEST(RoundTrips, AGroupMustDivideTheColumns) {
  const auto recipe = *MakeRecipe("compressed-tensors", {{"group_size", "7"}});
  ModuleInfo info;
  info.name = "model.layers.0.mlp.up_proj";
  const Scheme* scheme = recipe->SchemeFor(info, ModelConfig());
  ASSERT_NE(scheme, nullptr);
  EXPECT_EQ(scheme->CheckShape(8, 64).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(scheme->CheckShape(8, 63).ok());
}

TEST(RoundTrips, RaggedTilesStayUnquantizedButAreRead) {
  const auto recipe = *MakeRecipe("fp8", {});
  ModuleInfo info;
  info.rows = 576;
  info.cols = 128;
  EXPECT_EQ(recipe->SchemeFor(info, ModelConfig()), nullptr);
  TensorMap tensors;
  tensors["weight"] = MakeTensor(DType::kF8E4M3, {192, 129});
  tensors["scale"] = MatrixOf(DType::kF32, 2, 2, {1, 2, 3, 4});
  std::fill(tensors["weight"].bytes.begin(), tensors["weight"].bytes.end(), std::byte{0x38});
  const auto codec = *CodecFor(ConfigWith(R"({"quant_method": "fp8"})", DType::kBF16));
  const auto decoded = codec->Decode(MemoryModule(tensors));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  const std::vector<float> values = Dequantize(*decoded);
  EXPECT_EQ(values[0], 1);
  EXPECT_EQ(values[128], 2);
  EXPECT_EQ(values[191 * 129 + 128], 4);
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), tensors), "");
}

}  // namespace
}  // namespace quantd

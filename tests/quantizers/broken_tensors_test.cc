// Stored tensors that are wrong in one way each: refused by name, never read past.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "absl/strings/str_cat.h"
#include "tests/quantizers/golden.h"

namespace quantd {
namespace {

using testing::HasSubstr;

struct Broken {
  const char* what;
  std::function<void(TensorMap&)> spoil;
  std::string message;
};

std::function<void(TensorMap&)> Remove(const std::string& name) {
  return [name](TensorMap& tensors) { tensors.erase(name); };
}
std::function<void(TensorMap&)> Replace(const std::string& name, DType dtype, Shape shape) {
  return [=](TensorMap& tensors) { tensors[name] = MakeTensor(dtype, shape); };
}
// Overwrites the first bytes.
std::function<void(TensorMap&)> Write(const std::string& name, std::vector<uint8_t> bytes) {
  return [=](TensorMap& tensors) {
    for (size_t i = 0; i < bytes.size(); ++i) tensors.at(name).bytes.at(i) = std::byte{bytes[i]};
  };
}
std::function<void(TensorMap&)> Text(const std::string& name, const std::string& text) {
  return [=](TensorMap& tensors) {
    tensors[name] = TensorOf<char>(DType::kU8, {static_cast<int64_t>(text.size())},
                                   std::span<const char>(text.data(), text.size()));
  };
}

void CheckRefused(const std::string& method, const std::map<std::string, std::string>& options,
                  const std::vector<Broken>& cases, const Shape& shape = {8, 64}) {
  const auto recipe = *MakeRecipe(method, options);
  Tensor weight = MakeTensor(DType::kF32, shape);
  for (size_t i = 3; i < weight.bytes.size(); i += 4) weight.bytes[i] = std::byte{0x3f};
  const TensorMap good = QuantizeAndEncode(*recipe, weight);
  ModelConfig config =
      ConfigWith(recipe->QuantizationConfig(ConfigWith("", DType::kF32)), DType::kF32);
  config.hidden_size = weight.shape[1];
  const auto codec = *CodecFor(config);
  ASSERT_TRUE(codec->Decode(MemoryModule(good)).ok());
  for (const Broken& broken : cases) {
    SCOPED_TRACE(absl::StrCat(method, ": ", broken.what));
    TensorMap tensors = good;
    broken.spoil(tensors);
    const MemoryModule module(tensors);
    EXPECT_TRUE(codec->IsQuantized(module));
    const absl::Status status = codec->Decode(module).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.layers.0.mlp.up_proj."));
    EXPECT_THAT(std::string(status.message()), HasSubstr(broken.message));
  }
}

const std::vector<uint8_t> kNan = {0, 0, 0xc0, 0x7f};
const std::vector<uint8_t> kHuge = {0, 0, 0x7f, 0x7f};

TEST(BrokenTensors, BitsAndBytesFourBit) {
  const std::string state = "weight.quant_state.bitsandbytes__fp4";
  const auto json = [](const std::string& shape, const std::string& rest) {
    return absl::StrCat("{\"quant_type\": \"fp4\", \"dtype\": \"float32\", \"shape\": ", shape,
                        rest, "}");
  };
  CheckRefused(
      "bitsandbytes", {{"bnb_4bit_use_double_quant", "true"}},
      {{"no state", Remove(state), "missing"},
       {"no absmax", Remove("weight.absmax"), "missing"},
       {"no map", Remove("weight.nested_quant_map"), "missing"},
       {"packed too short", Replace("weight", DType::kU8, {255, 1}), "expected U8"},
       {"absmax too long", Replace("weight.absmax", DType::kU8, {9}), "expected U8 [8]"},
       {"absmax of floats", Replace("weight.absmax", DType::kF32, {8}), "expected U8 [8]"},
       {"another table", Write("weight.quant_map", {0, 0, 0, 0x3f}), "not the table"},
       {"NaN", Write("weight.nested_absmax", kNan), "element 0 is not a finite number"},
       {"huge scales",
        [](TensorMap& tensors) {
          Write("weight.nested_absmax", kHuge)(tensors);
          for (size_t i = 0; i < 256; ++i) {
            std::memcpy(tensors["weight.nested_quant_map"].bytes.data() + 4 * i, kHuge.data(), 4);
          }
        },
        "overflows float32"},
       {"not JSON", Text(state, "{"), "quant_state"},
       {"unknown key", Text(state, json("[8, 64]", ", \"blocksize\": 64, \"x\": 1")), "x"},
       {"block of 48", Text(state, json("[8, 64]", ", \"blocksize\": 48")), "power of two"},
       {"block of 0", Text(state, json("[8, 64]", ", \"blocksize\": 0")), "blocksize"},
       {"huge shape", Text(state, json("[2147483647, 2147483647]", ", \"blocksize\": 64")), "2^40"},
       {"negative shape", Text(state, json("[-8, -64]", ", \"blocksize\": 64")), "shape"},
       {"other shape", Text(state, json("[8, 65]", ", \"blocksize\": 64")), "weight"}});
}

TEST(BrokenTensors, BitsAndBytesInt8) {
  CheckRefused("bitsandbytes", {{"bits", "8"}},
               {{"no SCB", Remove("SCB"), "missing"},
                {"NaN", Write("SCB", kNan), "not a finite number"},
                {"too few", Replace("SCB", DType::kF32, {7}), "expected F32 [8]"},
                {"rank 1", Replace("weight", DType::kI8, {512}), "a matrix"},
                {"turing order", Write("weight_format", {2}), "expected 0 (row)"}});
}

TEST(BrokenTensors, Quark) {
  CheckRefused("quark", {{"group_size", "32"}},
               {{"bf16 as weight", Replace("weight", DType::kBF16, {64, 1}), "expected I32"},
                {"too narrow", Replace("weight", DType::kI32, {64, 2}), "a width of 1"},
                {"group does not divide", Replace("weight", DType::kI32, {65, 1}), "divide"},
                {"rank 1", Replace("weight", DType::kI32, {64}), "a matrix"},
                {"too few scales", Replace("weight_scale", DType::kF32, {1, 8}), "[2, 8]"},
                {"NaN scale", Write("weight_scale", kNan), "not a finite number"},
                {"no zero points", Remove("weight_zero_point"), "missing"},
                {"zero points", Write("weight_zero_point", {1}), "symmetric"}});
  CheckRefused("quark", {{"bits", "2"}, {"group_size", "32"}},
               {{"a code beyond 2 bits", Write("weight", {2}), "does not fit int2"}});
  CheckRefused("quark", {{"dtype", "fp4"}},
               {{"too narrow", Replace("weight", DType::kU8, {8, 16}), "[8, 1]"},
                {"NaN exponent", Write("weight_scale", {255}), "255"}});
  CheckRefused("quark", {{"dtype", "fp6_e3m2"}},
               {{"no thirds", Replace("weight", DType::kU8, {8, 47}), "multiple of 3"}});
  CheckRefused("quark", {{"dtype", "fp8_e5m2"}},
               {{"infinity", Write("weight", {0x7c}), "element 0 is NaN or infinite"}});
  CheckRefused("quark", {{"bits", "16"}},
               {{"NaN", Write("weight", {0xc0, 0x7f}), "not a finite number"},
                {"long scale", Replace("weight_scale", DType::kF32, {2}), "expected F32 [1]"}});
}

TEST(BrokenTensors, TorchAo) {
  CheckRefused("torchao", {{"group_size", "32"}},
               {{"no scales", Remove("_weight_scale"), "missing"},
                {"bf16 scales", Replace("_weight_scale", DType::kBF16, {8, 2}), "expected F32"},
                {"transposed scales", Replace("_weight_scale", DType::kF32, {2, 8}), "[8, 2]"},
                {"NaN scale", Write("_weight_scale", kNan), "not a finite number"},
                {"zero points too few", Replace("_weight_zero_point", DType::kI8, {8}), "[8, 2]"},
                {"group does not divide", Replace("_weight_qdata", DType::kI8, {8, 65}), "divide"},
                {"rank 1", Replace("_weight_qdata", DType::kI8, {512}), "a matrix"},
                {"zero rows", Replace("_weight_qdata", DType::kI8, {0, 64}), "a matrix"},
                {"both weights", Replace("weight", DType::kF32, {8, 64}), "one of them"}});
  CheckRefused("torchao", {{"bits", "4"}, {"group_size", "32"}},
               {{"no zero points", Remove("_weight_zero_point"), "missing"},
                {"scales not transposed", Replace("_weight_scale", DType::kF32, {8, 2}), "[2, 8]"},
                {"too narrow", Replace("_weight_qdata", DType::kI8, {8, 16}), "[1, 8]"},
                {"NaN offset", Write("_weight_zero_point", kNan), "not a finite number"}});
  CheckRefused("torchao", {{"bits", "3"}},
               {{"a code beyond 3 bits", Write("_weight_qdata", {4}), "does not fit 3 bits"},
                {"no zero points", Remove("_weight_zero_point"), "missing"}});
  CheckRefused("torchao", {{"quant_type", "Float8WeightOnlyConfig"}},
               {{"NaN", Write("_weight_qdata", {0x7f}), "element 0 is NaN"},
                {"e5m2", Replace("_weight_qdata", DType::kF8E5M2, {8, 64}), "expected F8_E4M3"}});
}

TEST(BrokenTensors, CompressedTensorsPacked) {
  CheckRefused(
      "compressed-tensors", {{"group_size", "32"}, {"symmetric", "false"}},
      {{"no shape", Remove("weight_shape"), "missing"},
       {"shape of zero", Replace("weight_shape", DType::kI64, {2}), "a matrix"},
       {"other shape", Write("weight_shape", {9}), "expected"},
       {"no scales", Remove("weight_scale"), "missing"},
       {"NaN scale", Write("weight_scale", kNan), "not a finite number"},
       {"too few scales", Replace("weight_scale", DType::kF32, {8, 1}), "[8, 2]"},
       {"too narrow", Replace("weight_packed", DType::kI32, {8, 7}), "[8, 8]"},
       {"zero points missing", Remove("weight_zero_point"), "missing"},
       {"zero points too few", Replace("weight_zero_point", DType::kI32, {1, 1}), "[1, 2]"},
       {"both weights", Replace("weight", DType::kF32, {8, 64}), "one of them"},
       {"g_idx short", Replace("weight_g_idx", DType::kI32, {63}), "[64]"},
       {"g_idx of one group", Replace("weight_g_idx", DType::kI32, {64}), "32 columns"}});
}

TEST(BrokenTensors, CompressedTensorsFloats) {
  CheckRefused("compressed-tensors", {{"scheme", "NVFP4A16"}},
               {{"no global scale", Remove("weight_global_scale"), "missing"},
                {"zero", Write("weight_global_scale", {0, 0, 0, 0}), "is zero"},
                {"tiny", Write("weight_global_scale", {1, 0, 0, 0}), "overflows float32"},
                {"NaN scale", Write("weight_scale", {0x7f}), "not a finite number"}});
  CheckRefused("compressed-tensors", {{"scheme", "MXFP4A16"}},
               {{"NaN exponent", Write("weight_scale", {255}), "255"}});
  CheckRefused("compressed-tensors", {{"scheme", "FP8_DYNAMIC"}},
               {{"NaN weight", Write("weight", {0x7f}), "element 0 is NaN"},
                {"int weight", Replace("weight", DType::kI8, {8, 64}), "expected F8_E4M3"}});
}

TEST(BrokenTensors, Fp8) {
  CheckRefused("fp8", {{"weight_block_size", "8,32"}},
               {{"no scale", Remove("weight_scale_inv"), "missing"},
                {"NaN weight", Write("weight", {0, 0xff}), "element 1 is NaN"},
                {"NaN scale", Write("weight_scale_inv", kNan), "not a finite number"},
                {"transposed", Replace("weight_scale_inv", DType::kF32, {2, 1}), "[1, 2]"}});
}

TEST(BrokenTensors, Hqq) {
  const std::map<std::string, std::string> options = {{"compute_dtype", "float32"},
                                                      {"group_size", "32"}};
  CheckRefused("hqq", options,
               {{"no scale", Remove("scale"), "missing"},
                {"no zeros", Remove("zero"), "missing"},
                {"no shape", Remove("shape"), "missing"},
                {"no width", Remove("nbits"), "missing"},
                {"both weights", Replace("weight", DType::kF32, {8, 64}), "only one"},
                {"width 7", Write("nbits", {7}), "found 7, expected 8, 6"},
                {"width of the config", Write("nbits", {8}), "quantization_config says 4"},
                {"axis 2", Write("axis", {2}), "expected 0 to 1"},
                {"axis of the config", Write("axis", {0}), "quantization_config says 1"},
                {"group of 0", Write("group_size", {0}), "expected 1 to"},
                {"group of 48", Write("group_size", {48}), "does not divide"},
                {"group of the config", Write("group_size", {64}), "quantization_config says 32"},
                {"negative group", Write("group_size", {0, 0, 0, 0x80}), "expected 1 to"},
                {"other shape", Write("shape", {16}), "expected"},
                {"negative shape", Write("shape", {8, 0, 0, 0, 0, 0, 0, 0x80}), "a matrix"},
                {"shape too large", Write("shape", {8, 0, 0, 0, 0, 0, 0, 1}), "2^40"},
                {"other packing", Text("packing", "2bit_u8"), "expected \"4bit_u8\""},
                {"code for a dtype", Text("compute_dtype", "exit()"), "expected \"torch.float32\""},
                {"other view", Text("unpack_view_dtype", "torch.int32"), "torch.uint8"},
                {"long text", Replace("packing", DType::kU8, {65}), "64 characters"},
                {"quantized scales", Write("quant_scale", {1}), "expected 0"},
                {"whole matrix", Write("channel_wise", {0}), "expected 1"},
                {"switch of 2", Write("view_as_float", {2}), "0 or 1"},
                {"not floats", Write("view_as_float", {1}), "expected F32 [8, 8]"},
                {"NaN", Write("zero", kNan), "element 0 is not a finite number"},
                {"scales of integers", Replace("scale", DType::kI32, {16, 1}), "expected F16"},
                {"too few scales", Replace("scale", DType::kF32, {8, 1}), "[16, 1]"},
                {"transposed zeros", Replace("zero", DType::kF32, {1, 16}), "[16, 1]"},
                {"too few codes", Replace("W_q", DType::kU8, {7, 32}), "expected U8 [8, 32]"}});
  CheckRefused("hqq", {{"nbits", "3"}, {"compute_dtype", "float32"}},
               {{"unused bits", Write("W_q", {0, 0, 0, 0x80}), "bits that hold no code"}});
  CheckRefused("hqq", {{"nbits", "5"}, {"compute_dtype", "float32"}},
               {{"code 32", Write("W_q", {32}), "code 32 at element 0 is above 31"}});
  CheckRefused("hqq", {{"nbits", "1.58"}, {"compute_dtype", "float32"}},
               {{"code 3", Write("W_q", {3}), "is above 2"}});
}

TEST(BrokenTensors, Eetq) {
  CheckRefused("eetq", {},
               {{"no scales", Remove("weight_scales"), "missing"},
                {"NaN scale", Write("weight_scales", {0, 0x7e}), "not a finite number"},
                {"scales of the inputs", Replace("weight_scales", DType::kF16, {128}), "[64]"},
                {"ragged", Replace("weight", DType::kI8, {128, 60}), "multiples of 64"},
                {"other type", Replace("weight", DType::kU8, {128, 64}), "expected I8"},
                {"both weights", Replace("qweight", DType::kI8, {128, 64}), "one of them"}},
               {64, 128});
}

TEST(BrokenTensors, Quanto) {
  CheckRefused("quanto", {},
               {{"no codes", Remove("weight._data"), "missing"},
                {"no scales", Remove("weight._scale"), "missing"},
                {"NaN scale", Write("weight._scale", kNan), "not a finite number"},
                {"too few scales", Replace("weight._scale", DType::kF32, {7, 1}), "[8, 1]"},
                {"other type", Replace("weight._data", DType::kF8E4M3, {8, 64}), "expected I8"},
                {"plain weight too", Replace("weight", DType::kF32, {8, 64}), "freeze()"},
                {"input scales", Replace("input_scale", DType::kF32, {2}), "one number"}});
  CheckRefused("quanto", {{"weights", "float8_e5m2"}},
               {{"infinity", Write("weight._data", {0, 0x7c}), "element 1 is no finite number"}});
  CheckRefused("quanto", {{"weights", "float8_e4m3fnuz"}},
               {{"NaN", Write("weight._data", {0x80}), "element 0 is no finite number"}});
  CheckRefused(
      "quanto", {{"weights", "int4"}},
      {{"no shift", Remove("weight._shift"), "missing"},
       {"NaN shift", Write("weight._shift", kNan), "not a finite number"},
       {"flat scales", Replace("weight._scale", DType::kF32, {8}), "[groups, 1]"},
       {"too few scales", Replace("weight._scale", DType::kF32, {7, 1}), "[7, 1]"},
       {"groups of 60", Replace("weight._data._data", DType::kU8, {4, 60}), "columns"},
       {"too few shifts", Replace("weight._shift", DType::kF32, {7, 1}), "[8, 1]"},
       {"packed too short", Replace("weight._data._data", DType::kU8, {3, 64}), "[4, 64]"}});
}

TEST(BrokenTensors, FpQuant) {
  const auto rename = [](const char* from, const char* to) {
    return [=](TensorMap& tensors) {
      tensors[to] = tensors[from];
      tensors.erase(from);
    };
  };
  const std::string rotation = "forward_hadamard_matrix";
  CheckRefused(
      "fp_quant", {},
      {{"values for codes", rename("qweight", "dqweight"), "pseudoquantization false"},
       {"no codes", Remove("qweight"), "missing"},
       {"no scales", Remove("scales"), "missing"},
       {"no rotation", Remove(rotation), "missing"},
       {"no other rotation", Remove("backward_hadamard_matrix"), "missing"},
       {"no scale of inputs", Remove("act_global_scale"), "missing"},
       {"codes of another type", Replace("qweight", DType::kI8, {8, 32}), "expected U8"},
       {"rank 1", Replace("qweight", DType::kU8, {256}), "a matrix"},
       {"a run too long", Replace("qweight", DType::kU8, {8, 36}), "a multiple of 16"},
       {"huge", Replace("qweight", DType::kU8, {0, 1}), "qweight"},
       {"scales of floats", Replace("scales", DType::kF8E4M3, {8, 4}), "expected U8"},
       {"too few scales", Replace("scales", DType::kU8, {8, 3}), "expected U8 [8, 4]"},
       {"scales padded otherwise", Replace("scales", DType::kU8, {128, 8}), "expected U8 [8, 4]"},
       {"a NaN scale", Write("scales", {0x7f}), "row 0, block 0"},
       {"a small rotation", Replace(rotation, DType::kF32, {8, 8}), "[16, 16]"},
       {"a NaN rotation", Write(rotation, kNan), "not a finite number"},
       {"a NaN for gradients", Write("backward_hadamard_matrix", kNan), "not a finite number"},
       {"scale 0", Replace("weight_global_scale", DType::kF32, {1}), "positive"},
       {"a NaN scale of inputs", Write("act_global_scale", {0xc0, 0x7f}), "positive"},
       {"two scales", Replace("weight_global_scale", DType::kF32, {2}), "one positive number"},
       {"weights as well", Replace("weight", DType::kF32, {8, 64}), "weight"}});
  CheckRefused("fp_quant", {{"forward_dtype", "mxfp4"}},
               {{"a NaN power", Write("scales", {255}), "row 0, block 0"},
                {"a power that overflows", Write("scales", {254}), "beyond float32"}});
  CheckRefused("fp_quant", {{"pseudoquantization", "true"}},
               {{"codes for values", rename("dqweight", "qweight"), "pseudoquantization true"},
                {"a NaN value", Write("dqweight", kNan), "row 0, block 0"},
                {"a value between", Write("dqweight", {0, 0, 0x80, 0x3f, 0x7b, 0x14, 0x2e, 0x3e}),
                 "row 0, block 0"},
                {"codes' type", Replace("dqweight", DType::kU8, {8, 64}), "found U8"}});
  CheckRefused("fp_quant", {{"store_master_weights", "true"}},
               {{"no weights", Remove("weight"), "missing"},
                {"a NaN weight", Write("weight", kNan), "not a finite number"}});
}

TEST(BrokenTensors, BitNet) {
  CheckRefused("bitnet", {{"use_rms_norm", "true"}},
               {{"no scale", Remove("weight_scale"), "missing"},
                {"NaN scale", Write("weight_scale", kNan), "not a finite number"},
                {"scale 0", Write("weight_scale", {0, 0, 0, 0}), "positive"},
                {"two scales", Replace("weight_scale", DType::kF32, {2}), "expected F32"},
                {"float weight", Replace("weight", DType::kF32, {8, 64}), "expected U8"},
                {"no norm", Remove("rms_norm.weight"), "missing"},
                {"short norm", Replace("rms_norm.weight", DType::kF32, {63}), "[64]"},
                {"NaN norm", Write("rms_norm.weight", kNan), "not a finite number"}});
  CheckRefused("bitnet", {},
               {{"norm too much", Replace("rms_norm.weight", DType::kF32, {64}), "use_rms_norm"}});
  CheckRefused("bitnet", {{"linear_class", "autobitlinear"}, {"quantization_mode", "online"}},
               {{"NaN weight", Write("weight", kNan), "element 0 is not a finite number"},
                {"stored scale", Replace("weight_scale", DType::kF32, {1}), "offline"},
                {"packed", Replace("weight", DType::kU8, {2, 64}), "expected F32"}});
}

// Columns in the order of their groups after reading, and in the file's order after writing.
TEST(ColumnGroups, AreUndoneByWriting) {
  const auto recipe = *MakeRecipe("compressed-tensors", {{"group_size", "2"}});
  Tensor weight = MakeTensor(DType::kF32, {1, 4});
  const float values[4] = {1, 2, 3, 7};
  std::memcpy(weight.bytes.data(), values, sizeof(values));
  TensorMap tensors = QuantizeAndEncode(*recipe, weight);
  const int32_t groups[4] = {1, 0, 1, 0};
  tensors["weight_g_idx"] = TensorOf<int32_t>(DType::kI32, {4}, groups);
  const auto codec =
      *CodecFor(ConfigWith(recipe->QuantizationConfig(ConfigWith("", DType::kF32)), DType::kF32));
  const auto decoded = codec->Decode(MemoryModule(tensors));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_THAT(decoded->input.permutation, testing::ElementsAre(1, 3, 0, 2));
  EXPECT_EQ(Difference(MemoryModule::ToMap(*codec->Encode(*decoded)), tensors), "");
}

}  // namespace
}  // namespace quantd

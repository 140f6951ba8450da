#include "quantizers/codecs/gguf/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "quantizers/codecs/gguf/model_mapping.h"
#include "tests/quantizers/gguf/golden.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

class BlockTypeTest : public ::testing::TestWithParam<GoldenType> {};

// Values bit for bit, and the same bytes again.
TEST_P(BlockTypeTest, DecodesAndEncodesAsGgml) {
  const std::string folder = std::string("gguf/linear-") + GetParam().name;
  const auto quantized = ReadGoldenTensors(folder + "/quantized.safetensors");
  const auto expected = ReadGoldenTensors(folder + "/expected.safetensors");
  const GgmlTypeInfo* info = FindGgmlType(static_cast<uint32_t>(GetParam().type));
  ASSERT_NE(info, nullptr);
  int checked = 0;
  for (const auto& [blocks_name, values_name] :
       {std::pair{"blocks", "dequant"}, std::pair{"blocks_imatrix", "dequant_imatrix"},
        std::pair{"random_blocks", "random_dequant"}}) {
    SCOPED_TRACE(blocks_name);
    if (!quantized.contains(blocks_name)) continue;
    ++checked;
    const Tensor& blocks = quantized.at(blocks_name);
    const Shape shape = {blocks.shape[0],
                         blocks.shape[1] / info->block_bytes * info->block_elements};
    const auto weight = DecodeGgufBlocks(GetParam().type, shape, blocks.bytes);
    ASSERT_TRUE(weight.ok()) << weight.status();
    const auto& tensor = std::get<QuantizedTensor>(*weight);
    ASSERT_TRUE(Validate(tensor).ok()) << Validate(tensor);
    const std::vector<float> found = Dequantize(tensor);
    const std::vector<float> wanted = FloatsOf(expected.at(values_name));
    ASSERT_EQ(found.size(), wanted.size());
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(std::memcmp(&found[i], &wanted[i], 4), 0)
          << "element " << i << ": " << found[i] << ", expected " << wanted[i];
    }
    const auto encoded = EncodeGgufBlocks(GetParam().type, tensor);
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    EXPECT_TRUE(*encoded == blocks.bytes);
  }
  EXPECT_GE(checked, 2);
}

INSTANTIATE_TEST_SUITE_P(AllTypes, BlockTypeTest, ::testing::ValuesIn(AllGoldenTypes()),
                         [](const auto& info) { return std::string(info.param.name); });

// Not all bytes of TQ1_0 are what a quantizer writes for their five trits.
TEST(BlocksTest, KeepsSpellingsUntilTheCodesChange) {
  const Tensor blocks =
      ReadGoldenTensors("gguf/linear-tq1_0/quantized.safetensors").at("random_blocks");
  const int64_t rows = blocks.shape[0];
  const auto weight = DecodeGgufBlocks(GgmlType::kTQ1_0, {rows, 256}, blocks.bytes);
  ASSERT_TRUE(weight.ok()) << weight.status();
  auto tensor = std::get<QuantizedTensor>(*weight);
  std::vector<int64_t> order(rows);
  for (int64_t r = 0; r < rows; ++r) order[r] = rows - 1 - r;
  auto reversed = std::get<QuantizedTensor>(*PermuteRows(Weight(tensor), order));
  const auto encoded = EncodeGgufBlocks(GgmlType::kTQ1_0, reversed);
  ASSERT_TRUE(encoded.ok()) << encoded.status();
  for (int64_t r = 0; r < rows; ++r) {
    EXPECT_EQ(std::memcmp(encoded->data() + 54 * r, blocks.bytes.data() + 54 * order[r], 54), 0);
  }
  tensor.codes[0] = tensor.codes[0] == 0 ? 1 : 0;
  const auto changed = EncodeGgufBlocks(GgmlType::kTQ1_0, tensor);
  const auto read = DecodeGgufBlocks(GgmlType::kTQ1_0, {rows, 256}, *changed);
  EXPECT_EQ(std::get<QuantizedTensor>(*read).codes, tensor.codes);
}

TEST(BlocksTest, PlainTypesStayPlain) {
  const std::vector<uint16_t> values = {0x3c00, 0xc000};
  const auto weight = DecodeGgufBlocks(GgmlType::kF16, {1, 2}, std::as_bytes(std::span(values)));
  ASSERT_TRUE(weight.ok());
  EXPECT_EQ(std::get<Tensor>(*weight).dtype, DType::kF16);
  EXPECT_EQ(std::get<Tensor>(*weight).bytes.size(), 4u);
}

TEST(BlocksTest, RefusesWhatDoesNotFit) {
  const std::vector<std::byte> blocks(18 * 3);
  // Too few bytes, too many, rows that are no whole number of blocks, no dimensions.
  for (const Shape& shape : {Shape{4, 32}, Shape{2, 32}, Shape{3, 31}, Shape{}}) {
    EXPECT_EQ(DecodeGgufBlocks(GgmlType::kQ4_0, shape, blocks).status().code(),
              absl::StatusCode::kInvalidArgument)
        << ToString(shape);
  }
  EXPECT_TRUE(DecodeGgufBlocks(GgmlType::kQ4_0, {3, 32}, blocks).ok());
  EXPECT_EQ(DecodeGgufBlocks(GgmlType::kQ8_K, {1, 256}, blocks).status().code(),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(DecodeGgufBlocks(GgmlType::kI32, {1, 1}, blocks).status().code(),
            absl::StatusCode::kUnimplemented);
}

TEST(BlocksTest, RefusesScalesThatAreNoNumbers) {
  for (const uint16_t scale : {uint16_t{0x7c00}, uint16_t{0x7e00}, uint16_t{0xfc01}}) {
    std::vector<std::byte> blocks(20 * 2);
    std::memcpy(blocks.data() + 20 + 2, &scale, 2);  // the minimum of the second block
    const auto weight = DecodeGgufBlocks(GgmlType::kQ4_1, {2, 32}, blocks);
    EXPECT_EQ(weight.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(weight.status().message(), HasSubstr("row 1"));
  }
}

TEST(BlocksTest, EncodesOnlyItsOwnType) {
  const std::vector<std::byte> blocks(18 * 3);
  const auto weight = DecodeGgufBlocks(GgmlType::kQ4_0, {3, 32}, blocks);
  const auto& tensor = std::get<QuantizedTensor>(*weight);
  EXPECT_TRUE(EncodeGgufBlocks(GgmlType::kQ4_0, tensor).ok());
  for (const GgmlType type : {GgmlType::kQ4_1, GgmlType::kIQ4_NL, GgmlType::kQ8_0}) {
    EXPECT_EQ(EncodeGgufBlocks(type, tensor).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(BlocksTest, RefusesCodesOffTheLattice) {
  const std::vector<std::byte> blocks(66);
  const auto weight = DecodeGgufBlocks(GgmlType::kIQ2_XXS, {1, 256}, blocks);
  auto tensor = std::get<QuantizedTensor>(*weight);
  EXPECT_TRUE(EncodeGgufBlocks(GgmlType::kIQ2_XXS, tensor).ok());
  tensor.codes[5] ^= 4;  // one more minus sign: odd
  EXPECT_EQ(EncodeGgufBlocks(GgmlType::kIQ2_XXS, tensor).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd

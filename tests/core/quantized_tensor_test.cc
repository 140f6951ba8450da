#include "core/quantized_tensor.h"

#include <gtest/gtest.h>

namespace quantd {
namespace {

QuantizedTensor TwoByFour() {
  QuantizedTensor t;
  t.rows = 2;
  t.cols = 4;
  t.grid = UniformGrid(4, /*is_signed=*/true);
  t.codes = {0, 8, 15, 9, 8, 8, 7, 0};
  t.block = {1, 2, false};
  t.scale = {1.0f, 2.0f, 0.5f, 4.0f};
  return t;
}

TEST(QuantizedTensor, DequantizesByTheFormula) {
  QuantizedTensor t = TwoByFour();
  EXPECT_EQ(Dequantize(t), (std::vector<float>{-8, 0, 14, 2, 0, 0, -4, -32}));
  t.offset = {1, 0, 0, 0};
  t.zero_point = {0, 1, 0, 0};
  EXPECT_EQ(Dequantize(t), (std::vector<float>{-7, 1, 12, 0, 0, 0, -4, -32}));
}

TEST(QuantizedTensor, FlatBlocksCrossRows) {
  QuantizedTensor t = TwoByFour();
  t.block = {1, 3, true};
  t.scale = {1, 10, 100};
  EXPECT_EQ(Dequantize(t), (std::vector<float>{-8, 0, 7, 10, 0, 0, -100, -800}));
}

TEST(QuantizedTensor, StridedBlocksTakeElementsInTurn) {
  QuantizedTensor t = TwoByFour();
  t.block = GroupBlocks(2, 4, /*size=*/4, /*axis=*/0);
  t.scale = {1, 10};
  EXPECT_EQ(Dequantize(t), (std::vector<float>{-8, 0, 7, 10, 0, 0, -1, -80}));
  EXPECT_TRUE(Validate(t).ok());
  t.block.cols = 3;
  t.scale = {1, 2, 3};
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, GroupsAreTilesWhereNoneCrossesARow) {
  EXPECT_FALSE(GroupBlocks(2, 4, 2, 1).flat);
  EXPECT_TRUE(GroupBlocks(2, 6, 4, 1).flat);
}

// 15 - 0.03 is 15 in bfloat16, and 15 times the scale lies above the middle of 16 and 16.125, which
// the exact product does not.
TEST(QuantizedTensor, RoundsEachStepWhereUpstreamDoes) {
  QuantizedTensor t = TwoByFour();
  t.grid = UniformGrid(4, /*is_signed=*/false);
  t.zero_point = {0, 0.03f, 0, 0};
  t.scale = {1, 1.0709f, 1, 1};
  t.dequantized_dtype = DType::kBF16;
  EXPECT_EQ(Dequantize(t)[2], 16.0f);
  t.rounds_each_step = true;
  EXPECT_EQ(Dequantize(t)[2], 16.125f);
}

TEST(QuantizedTensor, UndoesThePermutationAndAddsOutliers) {
  QuantizedTensor t = TwoByFour();
  t.input.permutation = {3, 2, 1, 0};
  t.outliers = {{0, 1, 1}, {2}, {0.5f}};
  EXPECT_EQ(Dequantize(t), (std::vector<float>{2, 14, 0.5, -8, -32, -4, 0, 0}));
}

// Vectors of two rows from a codebook of four and a residual one of two.
QuantizedTensor ThreeByTwoOfCodebooks() {
  QuantizedTensor t;
  t.rows = 3;
  t.cols = 2;
  t.grid = {.kind = Grid::Kind::kCodebook,
            .bits = 2,
            .table = {0, 0, 1, 2, 3, 4, 5, 6, 10, 20, 30, 40},
            .vector_rows = 2,
            .codebooks = 2,
            .residual_bits = 1};
  t.wide_codes = {1, 0, 2, 1, 3, 1, 0, 0};
  t.block = {0, 0, false};
  t.scale = {1};
  return t;
}

TEST(QuantizedTensor, SumsTheVectorsOfCodebooks) {
  const QuantizedTensor t = ThreeByTwoOfCodebooks();
  ASSERT_TRUE(Validate(t).ok()) << Validate(t);
  EXPECT_EQ(Dequantize(t), (std::vector<float>{11, 33, 22, 44, 35, 10}));
}

TEST(QuantizedTensor, LeadingColumnsHaveCodebooksOfTheirOwn) {
  QuantizedTensor t = ThreeByTwoOfCodebooks();
  t.cols = 3;
  ColumnRun run{.cols = 1, .grid = {.kind = Grid::Kind::kCodebook, .bits = 1, .table = {7, 9}}};
  run.wide_codes = {0, 1, 0};
  t.leading.push_back(run);
  ASSERT_TRUE(Validate(t).ok()) << Validate(t);
  EXPECT_EQ(Dequantize(t), (std::vector<float>{7, 11, 33, 9, 22, 44, 7, 35, 10}));
  t.leading[0].wide_codes[1] = 2;
  EXPECT_FALSE(Validate(t).ok());
  t.leading[0] = run;
  t.leading[0].cols = 4;
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, ColumnsAreScaledInTheInputsOrder) {
  QuantizedTensor t = TwoByFour();
  t.input.permutation = {3, 2, 1, 0};
  t.column_scale = {1, 2, 3, 4};
  t.column_offset = {0, 0, 0.5f, 0};
  ASSERT_TRUE(Validate(t).ok());
  EXPECT_EQ(Dequantize(t), (std::vector<float>{2, 28, 0.5, -32, -32, -8, 0.5, 0}));
  t.column_scale.pop_back();
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, ValidateChecksCodebooks) {
  QuantizedTensor t = ThreeByTwoOfCodebooks();
  t.wide_codes[1] = 2;  // beyond the residual codebook
  EXPECT_FALSE(Validate(t).ok());
  t = ThreeByTwoOfCodebooks();
  t.grid.table.pop_back();
  EXPECT_FALSE(Validate(t).ok());
  t = ThreeByTwoOfCodebooks();
  t.grid.bits = 17;
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, ValidateNamesWhatIsWrong) {
  QuantizedTensor t = TwoByFour();
  EXPECT_TRUE(Validate(t).ok());
  t.scale.pop_back();
  EXPECT_EQ(Validate(t).code(), absl::StatusCode::kInvalidArgument);
  t = TwoByFour();
  t.codes[3] = 16;
  EXPECT_FALSE(Validate(t).ok());
  t = TwoByFour();
  t.input.permutation = {0, 1, 2, 2};
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, RotationsBelongToTheInputs) {
  QuantizedTensor t = TwoByFour();
  t.input.hadamard_size = 2;
  t.input.rotation = {1, 2, 3, 5};
  ASSERT_TRUE(Validate(t).ok()) << Validate(t);
  const std::vector<float> stored = Dequantize(t);
  std::vector<float> plain(stored.size());
  PlainRows(t, 0, t.rows, plain.data());
  // x (W R^T)^T = (x R) W^T: each pair (a, b) becomes (a + 2 b, 3 a + 5 b).
  for (size_t i = 0; i < stored.size(); i += 2) {
    EXPECT_EQ(plain[i], stored[i] + 2 * stored[i + 1]);
    EXPECT_EQ(plain[i + 1], 3 * stored[i] + 5 * stored[i + 1]);
  }
  t.input.rotation.pop_back();
  EXPECT_FALSE(Validate(t).ok());
  t.input.rotation.clear();
  t.input.rounding = {.values = InputRounding::Values::kE2M1,
                      .dynamic = true,
                      .fp4 = {.scale = Fp4Blocks::Scale::kE4M3OfMax, .global_scale = 0}};
  EXPECT_FALSE(Validate(t).ok());
}

TEST(QuantizedTensor, ReordersRowsWithTheirScales) {
  const auto reordered = ReorderRows(TwoByFour(), {1, 0});
  ASSERT_TRUE(reordered.ok());
  EXPECT_EQ(Dequantize(*reordered), (std::vector<float>{0, 0, -4, -32, -8, 0, 14, 2}));
}

}  // namespace
}  // namespace quantd

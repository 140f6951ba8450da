// bfloat16 products of every instruction set against their definition, bit by bit.
#include "kernels/bfloat16_product.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace quantd {
namespace {

float Rounded(float value) {
  if (std::fabs(value) < 0x1p-50f) return 0;
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

// Of all magnitudes, some beyond what the product keeps.
std::vector<float> Numbers(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const float mantissa = 1 + static_cast<float>(random() % (1 << 20)) * 0x1p-20f;
    const int exponent = random() % 16 == 0 ? -60 + static_cast<int>(random() % 20)
                                            : -12 + static_cast<int>(random() % 16);
    values.push_back(std::ldexp(random() % 2 == 0 ? mantissa : -mantissa, exponent));
  }
  return values;
}

// Operands are packed for one variant while it lives.
class Selection {
 public:
  explicit Selection(const BFloat16Product* variant) { SelectBFloat16Product(variant); }
  ~Selection() { SelectBFloat16Product(nullptr); }
};

// C [rows, cols], rows cols + 3 apart, += A B.
void Add(int64_t rows, int64_t cols, int64_t inner, const MatrixOperand& a, const MatrixOperand& b,
         std::vector<float>& c) {
  BFloat16Operand left, right;
  left.Pack(ProductSide::kLeft, a, rows, inner);
  right.Pack(ProductSide::kRight, b.Transposed(), cols, inner);
  MultiplyBFloat16(left, right, {0, rows, cols, inner}, true, c.data(), cols + 3);
}

float Expected(float c, int64_t inner, const MatrixOperand& a, const MatrixOperand& b, int64_t i,
               int64_t j) {
  for (int64_t first = 0; first < inner; first += 32) {
    float chains[2] = {0, 0};
    for (int64_t k = first; k < std::min(inner, first + 32); ++k) {
      chains[k % 2] = std::fma(Rounded(a.data[i * a.row_stride + k * a.col_stride]),
                               Rounded(b.data[k * b.row_stride + j * b.col_stride]), chains[k % 2]);
    }
    c += chains[0] + chains[1];
  }
  return c;
}

TEST(BFloat16Product, IsItsDefinitionInEveryVariantAndArrangement) {
  for (const auto [rows, cols, inner] :
       {std::array<int64_t, 3>{1, 1, 1}, {16, 16, 32}, {7, 33, 45}, {50, 40, 65}, {33, 70, 545}}) {
    const std::vector<float> a = Numbers(3 * rows * inner, 1), b = Numbers(3 * inner * cols, 2);
    for (int arrangement = 0; arrangement < 6; ++arrangement) {
      const MatrixOperand lefts[] = {
          {a.data(), inner, 1}, {a.data(), 1, rows}, {a.data(), 3 * inner, 3}};
      const MatrixOperand rights[] = {{b.data(), cols, 1}, {b.data(), 1, inner}};
      const MatrixOperand left = lefts[arrangement / 2], right = rights[arrangement % 2];
      const std::vector<float> before = Numbers(rows * (cols + 3), 3);
      std::vector<float> expected = before;
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols; ++j) {
          float& c = expected[static_cast<size_t>(i * (cols + 3) + j)];
          c = Expected(c, inner, left, right, i, j);
        }
      }
      for (auto variant = AllBFloat16Products(); *variant != nullptr; ++variant) {
        std::vector<float> found = before;
        const Selection selection(*variant);
        Add(rows, cols, inner, left, right, found);
        ASSERT_EQ(found, expected) << (*variant)->isa << " " << arrangement << " " << rows;
      }
    }
  }
}

TEST(BFloat16Product, OverwritesInEveryVariant) {
  constexpr int64_t kRows = 45, kCols = 70, kInner = 1700;  // more than the depth of any variant
  const std::vector<float> a = Numbers(kRows * kInner, 5), b = Numbers(kInner * kCols, 6);
  std::vector<float> expected(kRows * kCols);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kCols; ++j) {
      expected[i * kCols + j] =
          Expected(0, kInner, {a.data(), kInner, 1}, {b.data(), kCols, 1}, i, j);
    }
  }
  for (auto variant = AllBFloat16Products(); *variant != nullptr; ++variant) {
    const Selection selection(*variant);
    BFloat16Operand left, right;
    left.Pack(ProductSide::kLeft, a.data(), kRows, kInner);
    right.Pack(ProductSide::kRight, {b.data(), 1, kCols}, kCols, kInner);
    std::vector<float> found(kRows * kCols, 1e30f);
    MultiplyBFloat16(left, right, {0, kRows, kCols, kInner}, false, found.data(), kCols);
    ASSERT_EQ(found, expected) << (*variant)->isa;
  }
}

TEST(BFloat16Product, IsTheSameInParts) {
  constexpr int64_t kRows = 400, kCols = 600, kInner = 70;
  const std::vector<float> a = Numbers(kRows * kInner, 3), b = Numbers(kInner * kCols, 4);
  BFloat16Operand left, right;
  left.Pack(ProductSide::kLeft, a.data(), kRows, kInner);
  right.Pack(ProductSide::kRight, {b.data(), 1, kCols}, kCols, kInner);
  std::vector<float> whole(kRows * kCols), parts(kRows * kCols);
  MultiplyBFloat16(left, right, {0, kRows, kCols, kInner}, false, whole.data(), kCols);
  for (int64_t first = 0; first < kRows; first += 96) {
    const ProductRange range = {first, std::min<int64_t>(96, kRows - first), kCols, kInner};
    MultiplyBFloat16(left, right, range, false, parts.data() + first * kCols, kCols);
  }
  EXPECT_EQ(whole, parts);
}

TEST(BFloat16Product, TakesTheBeginningsOfItsOperandsInEveryVariant) {
  constexpr int64_t kRows = 40, kCols = 100, kInner = 160;
  constexpr ProductRange kPart = {0, 33, 50, 96};
  const std::vector<float> a = Numbers(kRows * kPart.inner, 7), b = Numbers(kInner * kCols, 8);
  std::vector<float> expected;
  for (int64_t i = 0; i < kPart.rows; ++i) {
    for (int64_t j = 0; j < kPart.cols; ++j) {
      expected.push_back(
          Expected(0, kPart.inner, {a.data(), kPart.inner, 1}, {b.data(), kCols, 1}, i, j));
    }
  }
  for (auto variant = AllBFloat16Products(); *variant != nullptr; ++variant) {
    const Selection selection(*variant);
    BFloat16Operand left, right;
    left.Pack(ProductSide::kLeft, a.data(), kRows, kPart.inner);
    right.Pack(ProductSide::kRight, {b.data(), 1, kCols}, kCols, kInner);
    std::vector<float> found(static_cast<size_t>(kPart.rows * kPart.cols));
    MultiplyBFloat16(left, right, kPart, false, found.data(), kPart.cols);
    ASSERT_EQ(found, expected) << (*variant)->isa;
  }
}

}  // namespace
}  // namespace quantd

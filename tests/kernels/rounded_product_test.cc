// Rounded products of every instruction set against their definition, bit by bit.
#include "kernels/rounded_product.h"

#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace quantd {
namespace {

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

constexpr ProductRounding kRoundings[] = {ProductRounding::kBFloat16, ProductRounding::kInt8};

// Operands are packed for one variant while it lives.
class Selection {
 public:
  Selection(ProductRounding rounding, const RoundedProduct* variant) : rounding_(rounding) {
    SelectRoundedProduct(rounding, variant);
  }
  ~Selection() { SelectRoundedProduct(rounding_, nullptr); }

 private:
  const ProductRounding rounding_;
};

// test(rounding) for every instruction set of every rounding.
template <class Test>
void ForVariants(const Test& test) {
  for (const ProductRounding rounding : kRoundings) {
    for (auto variant = AllRoundedProducts(rounding); *variant != nullptr; ++variant) {
      const Selection selection(rounding, *variant);
      SCOPED_TRACE(testing::Message()
                   << (rounding == ProductRounding::kInt8 ? "int8 " : "bfloat16 ")
                   << (*variant)->isa);
      test(rounding);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

float BFloat16Of(float value) {
  if (std::fabs(value) < 0x1p-50f) return 0;
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}

// The definition, of row i of A and column j of B, which has `right_inner` rows.
struct Expectation {
  MatrixOperand a, b;
  int64_t inner, right_inner;

  float Left(int64_t i, int64_t k) const { return a.data[i * a.row_stride + k * a.col_stride]; }
  float Right(int64_t k, int64_t j) const { return b.data[k * b.row_stride + j * b.col_stride]; }

  float BFloat16(float c, int64_t i, int64_t j) const {
    for (int64_t first = 0; first < inner; first += 32) {
      float chains[2] = {0, 0};
      for (int64_t k = first; k < std::min(inner, first + 32); ++k) {
        chains[k % 2] = std::fma(BFloat16Of(Left(i, k)), BFloat16Of(Right(k, j)), chains[k % 2]);
      }
      c += chains[0] + chains[1];
    }
    return c;
  }

  float Int8(float c, int64_t i, int64_t j) const {
    for (int64_t first = 0; first < inner; first += kInt8Block) {
      const int64_t end = std::min(inner, first + kInt8Block);
      float left = 0, right = 0;  // the greatest
      for (int64_t k = first; k < end; ++k) left = std::max(left, std::fabs(Left(i, k)));
      for (int64_t k = first; k < std::min(right_inner, first + kInt8Block); ++k) {
        right = std::max(right, std::fabs(Right(k, j)));
      }
      if (left < 0x1p-50f || right < 0x1p-50f) continue;
      int64_t sum = 0;
      for (int64_t k = first; k < end; ++k) {
        sum += std::lrint(Left(i, k) * (127 / left)) * std::lrint(Right(k, j) * (127 / right));
      }
      c += static_cast<float>(sum) * (left / 127 * (right / 127));
    }
    return c;
  }

  float Of(ProductRounding rounding, float c, int64_t i, int64_t j) const {
    return rounding == ProductRounding::kInt8 ? Int8(c, i, j) : BFloat16(c, i, j);
  }
};

TEST(RoundedProduct, IsItsDefinitionInEveryVariantAndArrangement) {
  for (const auto [rows, cols, inner] :
       {std::array<int64_t, 3>{1, 1, 1}, {16, 16, 32}, {7, 33, 45}, {50, 40, 65}, {33, 70, 545}}) {
    const std::vector<float> a = Numbers(3 * rows * inner, 1), b = Numbers(3 * inner * cols, 2);
    for (int arrangement = 0; arrangement < 6; ++arrangement) {
      const MatrixOperand lefts[] = {
          {a.data(), inner, 1}, {a.data(), 1, rows}, {a.data(), 3 * inner, 3}};
      const MatrixOperand rights[] = {{b.data(), cols, 1}, {b.data(), 1, inner}};
      const Expectation definition = {lefts[arrangement / 2], rights[arrangement % 2], inner,
                                      inner};
      const int64_t stride = cols + 3;
      const std::vector<float> before = Numbers(rows * stride, 3);
      ForVariants([&](ProductRounding rounding) {
        std::vector<float> expected = before, found = before;
        for (int64_t at = 0; at < rows * stride; ++at) {
          const int64_t i = at / stride, j = at % stride;
          if (j < cols) expected[at] = definition.Of(rounding, before[at], i, j);
        }
        RoundedOperand left, right;
        left.Pack(rounding, ProductSide::kLeft, definition.a, rows, inner);
        right.Pack(rounding, ProductSide::kRight, definition.b.Transposed(), cols, inner);
        MultiplyRounded(left, right, {0, rows, cols}, true, found.data(), stride);
        ASSERT_EQ(found, expected) << arrangement << " " << rows;
      });
    }
  }
}

// Packs all of A and B, and compares what `range` says.
void ExpectOverwritten(const Expectation& definition, int64_t inner, const ProductRange& range) {
  ForVariants([&](ProductRounding rounding) {
    std::vector<float> expected, found(static_cast<size_t>(range.rows * range.cols), 1e30f);
    for (int64_t i = 0; i < range.rows; ++i) {
      for (int64_t j = 0; j < range.cols; ++j) {
        expected.push_back(definition.Of(rounding, 0, i, j));
      }
    }
    RoundedOperand left, right;
    left.Pack(rounding, ProductSide::kLeft, definition.a, range.rows, inner);
    right.Pack(rounding, ProductSide::kRight, definition.b.Transposed(), definition.b.row_stride,
               definition.right_inner);
    MultiplyRounded(left, right, range, false, found.data(), range.cols);
    ASSERT_EQ(found, expected);
  });
}

TEST(RoundedProduct, OverwritesInEveryVariant) {
  constexpr int64_t kRows = 45, kCols = 70, kInner = 1700;  // more than the depth of any variant
  const std::vector<float> a = Numbers(kRows * kInner, 5), b = Numbers(kInner * kCols, 6);
  ExpectOverwritten({{a.data(), kInner, 1}, {b.data(), kCols, 1}, kInner, kInner}, kInner,
                    {0, kRows, kCols});
}

TEST(RoundedProduct, TakesTheBeginningOfItsRightOperandInEveryVariant) {
  constexpr int64_t kRows = 33, kCols = 100;
  for (const auto& [part, inner] : {std::pair<int64_t, int64_t>{96, 160}, {288, 700}}) {
    const std::vector<float> a = Numbers(kRows * part, 7), b = Numbers(inner * kCols, 8);
    ExpectOverwritten({{a.data(), part, 1}, {b.data(), kCols, 1}, part, inner}, part,
                      {0, kRows, 50});
  }
}

TEST(RoundedProduct, IsTheSameInParts) {
  constexpr int64_t kRows = 400, kCols = 600, kInner = 70;
  const std::vector<float> a = Numbers(kRows * kInner, 3), b = Numbers(kInner * kCols, 4);
  ForVariants([&](ProductRounding rounding) {
    RoundedOperand left, right;
    left.Pack(rounding, ProductSide::kLeft, a.data(), kRows, kInner);
    right.Pack(rounding, ProductSide::kRight, {b.data(), 1, kCols}, kCols, kInner);
    std::vector<float> whole(kRows * kCols), parts(kRows * kCols);
    MultiplyRounded(left, right, {0, kRows, kCols}, false, whole.data(), kCols);
    for (int64_t first = 0; first < kRows; first += 96) {
      const ProductRange range = {first, std::min<int64_t>(96, kRows - first), kCols};
      MultiplyRounded(left, right, range, false, parts.data() + first * kCols, kCols);
    }
    ASSERT_EQ(whole, parts);
  });
}

TEST(RoundedProduct, OfSeveralPairsIsOneAfterTheOtherInEveryVariant) {
  constexpr int64_t kRows = 110, kCols = 130;
  constexpr int64_t kInners[] = {300, 33, 1100};
  const std::vector<float> before = Numbers(kRows * kCols, 5);
  ForVariants([&](ProductRounding rounding) {
    RoundedOperand lefts[3], rights[3];
    std::vector<RoundedPair> pairs;
    std::vector<float> expected = before, found = before;
    for (int i = 0; i < 3; ++i) {
      const std::vector<float> a = Numbers(kRows * kInners[i], 6),
                               b = Numbers(kInners[i] * kCols, 7);
      lefts[i].Pack(rounding, ProductSide::kLeft, {a.data(), 1, kRows}, kRows, kInners[i]);
      rights[i].Pack(rounding, ProductSide::kRight, {b.data(), 1, kCols}, kCols, kInners[i]);
      MultiplyRounded(lefts[i], rights[i], {0, kRows, kCols}, true, expected.data(), kCols);
      pairs.push_back({&lefts[i], &rights[i]});
    }
    MultiplyRounded(pairs, {0, kRows, kCols}, true, found.data(), kCols);
    ASSERT_EQ(found, expected);
  });
}

// Halves of a step go to the even integer; a block below the least is zero.
TEST(RoundedProduct, RoundsToInt8TiesToEven) {
  const float a[] = {127, 0.5f, 1.5f, -2.5f, 2.5f, -127, 0, 0},
              b[] = {1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0,        0, 0,
                     0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x1p-51f, 0, 0};
  const std::vector<float> expected = {127, 0, 2, -2, 2, 0};
  ForVariants([&](ProductRounding rounding) {
    if (rounding != ProductRounding::kInt8) return;
    RoundedOperand left, right;
    left.Pack(rounding, ProductSide::kLeft, a, 1, 8);
    right.Pack(rounding, ProductSide::kRight, b, 6, 8);
    std::vector<float> found(6, 9);
    MultiplyRounded(left, right, {0, 1, 6}, false, found.data(), 6);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-4) << i;
  });
}

}  // namespace
}  // namespace quantd

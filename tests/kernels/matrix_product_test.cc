// Products against sums in double precision, in every arrangement of strides.
#include "kernels/matrix_product.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace quantd {
namespace {

std::vector<float> Numbers(int64_t count, int seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    values[i] = static_cast<float>((i * 7919 + seed * 104729) % 1009) / 504.0f - 1.0f;
  }
  return values;
}

TEST(MatrixProduct, AddsInEveryArrangement) {
  for (const auto [rows, cols, inner] :
       {std::array<int64_t, 3>{1, 1, 1}, {7, 33, 300}, {100, 40, 64}, {13, 520, 513}}) {
    const std::vector<float> a = Numbers(rows * inner, 1), b = Numbers(inner * cols, 2);
    for (int arrangement = 0; arrangement < 4; ++arrangement) {
      const bool turn_a = arrangement & 1, turn_b = arrangement & 2;
      const MatrixOperand left =
          turn_a ? MatrixOperand{a.data(), 1, rows} : MatrixOperand{a.data(), inner, 1};
      const MatrixOperand right = turn_b ? MatrixOperand{b.data(), inner, 1}.Transposed()
                                         : MatrixOperand{b.data(), cols, 1};
      std::vector<float> c(static_cast<size_t>(rows * (cols + 3)), 0.5f);
      AddMatrixProduct(rows, cols, inner, left, right, c.data(), cols + 3);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < cols + 3; ++j) {
          double sum = 0.5;
          for (int64_t k = 0; k < inner && j < cols; ++k) {
            sum += static_cast<double>(left.data[i * left.row_stride + k * left.col_stride]) *
                   right.data[k * right.row_stride + j * right.col_stride];
          }
          ASSERT_NEAR(c[i * (cols + 3) + j], sum, 1e-4) << arrangement << " " << i << " " << j;
        }
      }
    }
  }
}

TEST(MatrixProduct, DoesNotDependOnThreads) {
  constexpr int64_t kRows = 300, kCols = 600, kInner = 700;
  const std::vector<float> a = Numbers(kRows * kInner, 3), b = Numbers(kInner * kCols, 4);
  const auto product = [&](int threads) {
    SetComputeThreads(threads);
    std::vector<float> c(kRows * kCols);
    AddMatrixProduct(kRows, kCols, kInner, {a.data(), kInner, 1}, {b.data(), kCols, 1}, c.data(),
                     kCols);
    SetComputeThreads(0);
    return c;
  };
  const std::vector<float> one = product(1), three = product(3);
  EXPECT_EQ(std::memcmp(one.data(), three.data(), one.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace quantd

// Factorizations against their definitions, in double precision.
#include "kernels/linear_algebra/triangular.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/parallel.h"

namespace quantd {
namespace {

// X X^T / n plus a diagonal: well conditioned, dense and not regular.
std::vector<float> Positive(int64_t n) {
  uint32_t state = 17;
  std::vector<double> x(static_cast<size_t>(n * n));
  for (double& value : x) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<double>(state >> 8) / (1 << 23) - 1;
  }
  std::vector<float> a(x.size());
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.25 : 0;
      for (int64_t k = 0; k < n; ++k) sum += x[i * n + k] * x[j * n + k] / static_cast<double>(n);
      a[i * n + j] = static_cast<float>(sum);
    }
  }
  return a;
}

// Largest |(X Y)[i][j] - expected(i, j)| over the lower triangle.
template <class X, class Y, class Expected>
double LargestError(int64_t n, const X& x, const Y& y, const Expected& expected) {
  double largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (int64_t k = 0; k < n; ++k) sum += static_cast<double>(x(i, k)) * y(k, j);
      largest = std::max(largest, std::abs(sum - expected(i, j)));
    }
  }
  return largest;
}

TEST(Triangular, CholeskyInverseAndFactorOfInverse) {
  for (const int64_t n : {1, 5, 128, 129, 400}) {
    SCOPED_TRACE(n);
    const std::vector<float> a = Positive(n);
    std::vector<float> l = a;
    ASSERT_EQ(CholeskyLower(l.data(), n), n);
    const auto lower = [n](const std::vector<float>& m) {
      return [n, &m](int64_t i, int64_t j) { return j <= i ? m[i * n + j] : 0.0f; };
    };
    const auto lower_transposed = [n](const std::vector<float>& m) {
      return [n, &m](int64_t i, int64_t j) { return i <= j ? m[j * n + i] : 0.0f; };
    };
    const auto of_a = [&](int64_t i, int64_t j) { return a[i * n + j]; };
    const auto unit = [](int64_t i, int64_t j) { return i == j ? 1.0f : 0.0f; };
    // Float32 has 6e-8; sums of n products of order one.
    EXPECT_LT(LargestError(n, lower(l), lower_transposed(l), of_a), 2e-6);

    std::vector<float> inverse = l;
    InvertLower(inverse.data(), n);
    EXPECT_LT(LargestError(n, lower(l), lower(inverse), unit), 1e-5);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) ASSERT_EQ(inverse[i * n + j], 0.0f);
    }

    std::vector<float> u = a;
    ASSERT_EQ(UpperFactorOfInverse(u.data(), n), n);
    for (int64_t i = 1; i < n; ++i) ASSERT_EQ(u[i * n + i - 1], 0.0f);
    const auto of_u = [&](int64_t i, int64_t j) { return u[i * n + j]; };
    const auto of_u_transposed = [&](int64_t i, int64_t j) { return u[j * n + i]; };
    std::vector<double> inverse_a(static_cast<size_t>(n * n));
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t j = 0; j < n; ++j) {
          inverse_a[i * n + j] += static_cast<double>(of_u_transposed(i, k)) * of_u(k, j);
        }
      }
    }
    EXPECT_LT(LargestError(
                  n, [&](int64_t i, int64_t j) { return inverse_a[i * n + j]; }, of_a, unit),
              1e-4);
  }
}

TEST(Triangular, BadPivotsAreFound) {
  constexpr int64_t kSize = 300;
  for (const int64_t bad : {0, 100, 200, 299}) {
    for (const float value : {0.0f, -1.0f, NAN}) {
      std::vector<float> a(kSize * kSize);
      for (int64_t i = 0; i < kSize; ++i) a[i * kSize + i] = i == bad ? value : 2.0f;
      std::vector<float> b = a;
      EXPECT_EQ(CholeskyLower(a.data(), kSize), bad);
      EXPECT_LT(UpperFactorOfInverse(b.data(), kSize), kSize);
    }
  }
}

// Asked once for each block of columns, and not again after it said so.
TEST(Triangular, Stops) {
  constexpr int64_t kSize = 700;
  const std::vector<float> positive = Positive(kSize);
  int asked = 0;
  std::vector<float> a = positive;
  EXPECT_EQ(UpperFactorOfInverse(a.data(), kSize,
                                 [&] {
                                   ++asked;
                                   return false;
                                 }),
            kSize);
  EXPECT_EQ(asked, 12);
  for (const int after : {1, 6, 7, 12}) {
    asked = 0;
    a = positive;
    EXPECT_EQ(UpperFactorOfInverse(a.data(), kSize, [&] { return ++asked == after; }), kStopped);
    EXPECT_EQ(asked, after);
  }
}

TEST(Triangular, DoesNotDependOnThreads) {
  constexpr int64_t kSize = 700;
  const std::vector<float> a = Positive(kSize);
  std::vector<float> results[2];
  for (int i = 0; i < 2; ++i) {
    SetComputeThreads(i == 0 ? 1 : 3);
    results[i] = a;
    EXPECT_EQ(UpperFactorOfInverse(results[i].data(), kSize), kSize);
  }
  SetComputeThreads(0);
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace quantd

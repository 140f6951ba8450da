#include <gtest/gtest.h>

#include <cmath>

#include "core/float_types.h"
#include "core/hadamard.h"
#include "kernels/cpu/kernel_table.h"
#include "tests/kernels/testing.h"

namespace quantd::testing {
namespace {

class RowOps : public ::testing::TestWithParam<const cpu::KernelTable*> {};

double Expected(Activation activation, double x) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::kRelu:
      return std::max(x, 0.0);
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    default:
      return std::tanh(x);
  }
}

TEST_P(RowOps, ActivationsMatchTheirDefinitions) {
  for (const Activation activation : {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu,
                                      Activation::kSilu, Activation::kTanh}) {
    std::vector<float> x;
    for (float v = -100; v <= 100; v += 0.37f) x.push_back(v);
    for (float v = -5; v <= 5; v += 0.013f) x.push_back(v);
    std::vector<float> y = x;
    GetParam()->activate(activation, y.data(), static_cast<int64_t>(y.size()));
    for (size_t i = 0; i < x.size(); ++i) {
      // Absolute 3e-7 (erf and tanh approximations) times |x| for the products.
      EXPECT_NEAR(y[i], Expected(activation, x[i]), 5e-7 * std::max(1.0f, std::abs(x[i]))) << x[i];
    }
  }
}

TEST_P(RowOps, RotateIsTheHadamardTransformBitForBit) {
  for (const int64_t size : {1, 2, 4, 8, 16, 32, 128, 1024}) {
    for (const int64_t n : {size, 3 * size, 5 * size}) {
      std::vector<float> x = RandomFloats(n, 3, 2), expected = x;
      RotateByHadamard(expected.data(), n, size);
      GetParam()->rotate(x.data(), n, size);
      EXPECT_EQ(x, expected) << size << " of " << n;
    }
  }
}

TEST_P(RowOps, QuantizeRoundsPerBlock) {
  for (const int block : {16, 32, 64}) {
    const int64_t n = 192;
    const std::vector<float> x = RandomFloats(n, 1, 3);
    std::vector<int8_t> q(2 * n);
    std::vector<float> scale(n / block);
    std::vector<int32_t> sum(n / block);
    GetParam()->quantize(x.data(), n, block, q.data(), scale.data(), sum.data());
    for (int64_t b = 0; b < n / block; ++b) {
      int32_t total = 0;
      for (int64_t i = b * block; i < (b + 1) * block; ++i) {
        const int8_t* terms = q.data() + i / 4 * cpu::kQuadBytes + i % 4;
        const int value = 256 * terms[0] + terms[4];
        EXPECT_NEAR(value * scale[b], x[i], 0.51f * scale[b]);
        total += value;
      }
      EXPECT_EQ(sum[b], total);
    }
  }
}

TEST_P(RowOps, QuantizeMarksBlocksThatAreNotFinite) {
  std::vector<float> x(64, 1.0f);
  x[20] = INFINITY;
  x[40] = 0;
  std::vector<int8_t> q(128);
  float scale[4];
  int32_t sum[4];
  GetParam()->quantize(x.data(), 64, 16, q.data(), scale, sum);
  EXPECT_TRUE(std::isnan(scale[1]));
  EXPECT_FLOAT_EQ(scale[0], 1.0f / cpu::kInt16Most);
}

TEST_P(RowOps, NarrowingIsToNearestEven) {
  std::vector<float> x = RandomFloats(301, 2, 100);
  x[7] = std::nanf("");
  x[8] = 1.00390625f;  // halfway in bf16
  std::vector<uint16_t> bf16(x.size()), rest(x.size()), f16(x.size());
  GetParam()->split_bf16(x.data(), static_cast<int64_t>(x.size()), bf16.data(), rest.data());
  GetParam()->to_f16(x.data(), static_cast<int64_t>(x.size()), f16.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(bf16[i], Bf16FromFloat(x[i])) << i;
    if (i != 7) {
      EXPECT_EQ(rest[i], Bf16FromFloat(x[i] - FloatFromBf16(bf16[i]))) << i;
      EXPECT_EQ(f16[i], F16FromFloat(x[i])) << i;
    }
  }
}

TEST_P(RowOps, NormsOfOddWidths) {
  for (const int64_t n : {1, 31, 33, 129}) {
    std::vector<float> x = RandomFloats(n, 3, 2);
    for (float& v : x) v += 5;
    double mean = 0, square = 0, variance = 0;
    for (const float v : x) mean += v / double(n), square += double{v} * v / n;
    for (const float v : x) variance += (v - mean) * (v - mean) / n;
    std::vector<float> y(n);
    GetParam()->normalize(x.data(), n, {Norm::Kind::kRms, nullptr, nullptr, 1e-6f}, y.data());
    EXPECT_NEAR(y[n - 1], x[n - 1] / std::sqrt(square + 1e-6), 1e-5);
    GetParam()->normalize(x.data(), n, {Norm::Kind::kLayer, nullptr, nullptr, 1e-6f}, y.data());
    EXPECT_NEAR(y[n - 1], (x[n - 1] - mean) / std::sqrt(variance + 1e-6), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(AllIsas, RowOps, ::testing::ValuesIn(cpu::SupportedKernelTables()),
                         [](const auto& info) { return std::string(info.param->name); });

}  // namespace
}  // namespace quantd::testing

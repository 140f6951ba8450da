// Products on the device have the bits of AddMatrixProduct.
#include "kernels/opencl/matrix_product.h"

#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/parallel.h"
#include "kernels/backend.h"
#include "kernels/rounded_product.h"
#include "tests/kernels/opencl/fixture.h"

namespace quantd {
namespace {

using ::testing::HasSubstr;

// Numbers of many magnitudes.
std::vector<float> Numbers(int64_t count, unsigned seed) {
  std::vector<float> values = RandomFloats(count, seed);
  for (int64_t i = 0; i < count; ++i) {
    values[i] = std::ldexp(values[i], static_cast<int>((i * 7919 + seed) % 21) - 10);
  }
  return values;
}

// Equal bits, or both NaN.
void ExpectSame(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(found[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::memcmp(&found[i], &expected[i], sizeof(float)), 0)
        << i << ": " << found[i] << ", expected " << expected[i];
  }
}

class MatrixProductTest : public OpenClTest {
 protected:
  void SetUp() override {
    OpenClTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto products = opencl::CreateProducts(TestDevice().value(), "opencl:0");
    ASSERT_OK(products.status());
    products_ = *std::move(products);
    // A team whose threads wait for each other crawls where tests share few CPUs.
    SetComputeThreads(1);
  }
  void TearDown() override { SetComputeThreads(0); }

  std::unique_ptr<DeviceMatrix> Uploaded(const MatrixOperand& from, int64_t rows, int64_t cols) {
    std::unique_ptr<DeviceMatrix> matrix;
    EXPECT_TRUE(products_->Upload(from, rows, cols, matrix).ok());
    return matrix;
  }

  // C += A B by the device, C of rows without gaps.
  void AddProduct(std::array<int64_t, 3> shape, const MatrixOperand& a, const MatrixOperand& b,
                  std::vector<float>& c) {
    const auto [rows, cols, inner] = shape;
    const auto left = Uploaded(a, rows, inner), right = Uploaded(b, inner, cols);
    const auto sums = Uploaded({c.data(), cols, 1}, rows, cols);
    ASSERT_OK(products_->AddProduct({.a = left.get(), .b = right.get()}, *sums));
    ASSERT_OK(products_->Download(*sums, c.data(), cols));
  }

  void ExpectSameProduct(std::array<int64_t, 3> shape, const MatrixOperand& a,
                         const MatrixOperand& b, std::vector<float> c) {
    const auto [rows, cols, inner] = shape;
    SCOPED_TRACE(testing::Message()
                 << rows << " x " << cols << " x " << inner << ", strides " << a.row_stride << " "
                 << a.col_stride << " " << b.row_stride << " " << b.col_stride);
    std::vector<float> expected = c;
    AddMatrixProduct(rows, cols, inner, a, b, expected.data(), cols);
    AddProduct(shape, a, b, c);
    ExpectSame(c, expected);
  }

  std::unique_ptr<ProductDevice> products_;
};

TEST_F(MatrixProductTest, EveryShapeAndStride) {
  constexpr int64_t kSizes[] = {1, 2, 7, 31, 33, 64, 97, 130, 255, 300};
  constexpr int64_t kInner[] = {1, 3, 15, 16, 17, 255, 256, 257, 511, 512, 700, 1025};
  unsigned seed = 0;
  for (const int64_t inner : kInner) {
    for (int i = 0; i < 4; ++i) {
      ++seed;
      const int64_t rows = kSizes[(seed * 7) % 10], cols = kSizes[(seed * 3 + i) % 10];
      for (int arrangement = 0; arrangement < 9; ++arrangement) {
        // Of each operand: rows along the memory, columns, or neither; with gaps between the lines.
        const auto operand = [](int kind, const std::vector<float>& from, int64_t down,
                                int64_t across, int64_t gap) {
          if (kind == 0) return MatrixOperand{from.data(), across + gap, 1};
          if (kind == 1) return MatrixOperand{from.data(), 1, down + gap};
          return MatrixOperand{from.data(), 2 * across, 2};
        };
        const std::vector<float> a = Numbers(2 * (rows + 3) * (inner + 3), seed),
                                 b = Numbers(2 * (inner + 3) * (cols + 3), seed + 100);
        ExpectSameProduct(
            {rows, cols, inner}, operand(arrangement % 3, a, rows, inner, seed % 2 * 3),
            operand(arrangement / 3, b, inner, cols, seed % 3), Numbers(rows * cols, seed + 200));
      }
    }
  }
}

TEST_F(MatrixProductTest, SubnormalsZerosInfinitiesAndNaN) {
  constexpr int64_t kRows = 40, kCols = 50, kInner = 300;
  const float tiny = std::numeric_limits<float>::denorm_min();
  const float infinity = std::numeric_limits<float>::infinity();
  // Products and sums that are subnormal, or round to a zero with a sign.
  std::vector<float> a(kRows * kInner), b(kInner * kCols), c(kRows * kCols);
  for (size_t i = 0; i < a.size(); ++i) a[i] = std::ldexp(i % 3 ? 1.25f : -0.75f, -75 - i % 7);
  for (size_t i = 0; i < b.size(); ++i) b[i] = std::ldexp(i % 5 ? -1.5f : 1.0f, -72 - i % 5);
  for (size_t i = 0; i < c.size(); ++i) c[i] = i % 4 == 0 ? -0.0f : i % 4 == 1 ? tiny * i : 0.0f;
  std::vector<float> product = c;
  AddMatrixProduct(kRows, kCols, kInner, {a.data(), kInner, 1}, {b.data(), kCols, 1},
                   product.data(), kCols);
  const auto is_subnormal = [](float v) { return std::fpclassify(v) == FP_SUBNORMAL; };
  ASSERT_GT(std::ranges::count_if(product, is_subnormal), kRows * kCols / 2);
  ExpectSameProduct({kRows, kCols, kInner}, {a.data(), kInner, 1}, {b.data(), kCols, 1}, c);
  // One step, which leaves a negative zero in the chain.
  for (const int64_t inner : {1, 2, 3}) {
    std::vector<float> small(kRows * inner, -tiny), half(inner * kCols, 0.25f);
    ExpectSameProduct({kRows, kCols, inner}, {small.data(), inner, 1}, {half.data(), kCols, 1},
                      std::vector<float>(kRows * kCols, -0.0f));
  }
  // Beyond float32.
  std::vector<float> large = Numbers(kRows * kInner, 1), other = Numbers(kInner * kCols, 2);
  large[5] = infinity;
  large[kInner + 7] = -infinity;
  large[3 * kInner + 260] = std::nanf("");
  other[7 * kCols + 3] = 0;
  for (int64_t k = 0; k < kInner; ++k) large[9 * kInner + k] = 3e38f;
  ExpectSameProduct({kRows, kCols, kInner}, {large.data(), kInner, 1}, {other.data(), kCols, 1}, c);
}

TEST_F(MatrixProductTest, OneSumIsTheOrderThatIsPromised) {
  // Any other order or cut gives other bits: the chain begins anew at 256.
  constexpr int64_t kInner = 600;
  const std::vector<float> a = Numbers(kInner, 5), b = Numbers(kInner, 6);
  std::vector<float> c = {0.3f};
  float expected = c[0];
  for (int64_t slice = 0; slice < kInner; slice += 256) {
    float sum = 0;
    for (int64_t k = slice; k < std::min(kInner, slice + 256); ++k) {
      sum = std::fmaf(a[k], b[k], sum);
    }
    expected += sum;
  }
  AddProduct({1, 1, kInner}, {a.data(), kInner, 1}, {b.data(), 1, 1}, c);
  ExpectSame(c, {expected});
}

TEST_F(MatrixProductTest, TransposedRangesAndUpperTriangles) {
  constexpr int64_t kTokens = 300, kCols = 210;
  const std::vector<float> x = Numbers(kTokens * kCols, 8);
  const auto on_device = Uploaded({x.data(), kCols, 1}, kTokens, kCols);
  const MatrixOperand values = {x.data(), kCols, 1};
  std::vector<float> expected(kCols * kCols), found(kCols * kCols);
  AddMatrixProduct(kCols, kCols, kTokens, values.Transposed(), values, expected.data(), kCols);
  std::unique_ptr<DeviceMatrix> gram;
  ASSERT_OK(products_->Zero(kCols, kCols, gram));
  const DeviceProduct product = {
      .a = on_device.get(), .b = on_device.get(), .a_transposed = true, .upper_only = true};
  ASSERT_OK(products_->AddProduct(product, *gram));
  ASSERT_OK(products_->Download(*gram, found.data(), kCols));
  for (int64_t i = 0; i < kCols; ++i) {
    for (int64_t j = 0; j < i; ++j) found[i * kCols + j] = expected[i * kCols + j];
  }
  ExpectSame(found, expected);
  // X X^T by rows, into memory that was larger, and into rows with gaps.
  constexpr int64_t kFirst = 77, kCount = 55, kStride = kTokens + 4;
  ASSERT_OK(products_->Zero(kCount, kTokens, gram));
  ASSERT_OK(products_->AddProduct(
      {.a = on_device.get(), .b = on_device.get(), .b_transposed = true, .first_row = kFirst},
      *gram));
  std::vector<float> rows(kCount * kStride, 7.0f), wanted = rows;
  ASSERT_OK(products_->Download(*gram, rows.data(), kStride));
  for (int64_t i = 0; i < kCount; ++i) std::fill_n(wanted.data() + i * kStride, kTokens, 0.0f);
  AddMatrixProduct(kCount, kTokens, kCols, {x.data() + kFirst * kCols, kCols, 1},
                   values.Transposed(), wanted.data(), kStride);
  ExpectSame(rows, wanted);
}

TEST_F(MatrixProductTest, BFloat16HasTheBitsOfTheCpu) {
  constexpr std::array<int64_t, 3> kShapes[] = {{1, 1, 1},     {5, 33, 2},   {97, 40, 31},
                                                {64, 130, 32}, {40, 64, 33}, {131, 35, 257},
                                                {30, 70, 700}};
  unsigned seed = 0;
  for (const auto& [rows, cols, inner] : kShapes) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << " x " << inner);
    ++seed;
    std::vector<float> a = Numbers(rows * inner, seed), b = Numbers(inner * cols, seed + 50),
                       c = Numbers(rows * cols, seed + 90);
    // Small ones are rounded to zero, ties to even.
    for (size_t i = 0; i < a.size(); i += 5) a[i] = std::ldexp(a[i], -48);
    for (size_t i = 2; i < b.size(); i += 7)
      b[i] = 1 + 0x1p-8f + static_cast<float>(i % 4) * 0x1p-7f;
    RoundedOperand left, right;
    left.Pack(ProductRounding::kBFloat16, ProductSide::kLeft, a.data(), rows, inner);
    right.Pack(ProductRounding::kBFloat16, ProductSide::kRight, MatrixOperand{b.data(), 1, cols},
               cols, inner);
    std::vector<float> expected = c;
    MultiplyRounded(left, right, {0, rows, cols}, true, expected.data(), cols);
    const auto on_left = Uploaded({a.data(), inner, 1}, rows, inner);
    const auto on_right = Uploaded({b.data(), cols, 1}, inner, cols);
    const auto sums = Uploaded({c.data(), cols, 1}, rows, cols);
    ASSERT_OK(products_->RoundToBFloat16(*on_left));
    ASSERT_OK(products_->RoundToBFloat16(*on_right));
    ASSERT_OK(
        products_->AddProduct({.a = on_left.get(), .b = on_right.get(), .bfloat16 = true}, *sums));
    ASSERT_OK(products_->Download(*sums, c.data(), cols));
    ExpectSame(c, expected);
  }
}

TEST_F(MatrixProductTest, WrongShapesAreRefused) {
  const std::vector<float> x = Numbers(12, 9);
  const auto a = Uploaded({x.data(), 4, 1}, 3, 4), b = Uploaded({x.data(), 3, 1}, 4, 3);
  const auto refused = [&](const DeviceProduct& product, int64_t rows, int64_t cols) {
    std::unique_ptr<DeviceMatrix> c;
    EXPECT_TRUE(products_->Zero(rows, cols, c).ok());
    return products_->AddProduct(product, *c).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_FALSE(refused({.a = a.get(), .b = b.get()}, 3, 3));
  EXPECT_TRUE(refused({.a = a.get(), .b = b.get()}, 4, 3));
  EXPECT_TRUE(refused({.a = a.get(), .b = b.get()}, 3, 4));
  EXPECT_TRUE(refused({.a = a.get(), .b = a.get()}, 3, 3));
  EXPECT_TRUE(refused({.a = a.get(), .b = b.get(), .first_row = 1}, 3, 3));
  EXPECT_TRUE(refused({.a = a.get(), .b = b.get(), .first_row = -1}, 3, 3));
  std::unique_ptr<DeviceMatrix> none;
  EXPECT_EQ(products_->Zero(0, 3, none).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(MatrixProductTest, MemoryRunsOut) {
  opencl::Device device = TestDevice().value();
  device.max_allocation = 4096;
  device.global_memory = 6000;
  auto products = opencl::CreateProducts(device, "opencl:0");
  ASSERT_OK(products.status());
  EXPECT_TRUE((*products)->CheckRoom(6000, 4096).ok());
  for (const auto& [bytes, largest] : {std::pair<uint64_t, uint64_t>{6001, 10}, {5000, 4097}}) {
    const absl::Status status = (*products)->CheckRoom(bytes, largest);
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_THAT(std::string(status.message()), HasSubstr("6000"));
  }
  std::unique_ptr<DeviceMatrix> first, second;
  ASSERT_OK((*products)->Zero(32, 32, first));
  EXPECT_EQ((*products)->Zero(32, 32, second).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ((*products)->Zero(33, 32, second).code(), absl::StatusCode::kResourceExhausted);
  first.reset();
  EXPECT_TRUE((*products)->Zero(32, 32, second).ok());
}

TEST_F(MatrixProductTest, DevicesWithOtherArithmeticAreRefused) {
  for (const bool fma : {false, true}) {
    opencl::Device device = TestDevice().value();
    (fma ? device.has_fma : device.has_subnormals) = false;
    const absl::Status status = opencl::CreateProducts(device, "opencl:3").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), HasSubstr(fma ? "fused" : "subnormal"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("opencl:3"));
  }
}

TEST_F(MatrixProductTest, DevicesByName) {
  EXPECT_EQ(OpenProductDevice("cpu").value(), nullptr);
  EXPECT_EQ(OpenProductDevice("opencl").value()->id(), "opencl:0");
  EXPECT_EQ(OpenProductDevice("opencl:0").value()->id(), "opencl:0");
  EXPECT_EQ(OpenProductDevice("opencl:1000").status().code(),
            absl::StatusCode::kFailedPrecondition);
  for (const char* name : {"", "auto", "gpu", "opencl:", "opencl:x", "opencl:-1"}) {
    EXPECT_EQ(OpenProductDevice(name).status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
}

}  // namespace
}  // namespace quantd

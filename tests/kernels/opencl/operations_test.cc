#include "tests/kernels/opencl/fixture.h"
#include "tests/kernels/opencl/matrices.h"

namespace quantd {
namespace {

class EmbedOfEveryWeight : public OpenClTestWith<MatrixCase> {};

TEST_P(EmbedOfEveryWeight, EqualsDequantizedRows) {
  const MatrixCase& matrix = GetParam();
  const int64_t rows = 129;
  for (const int64_t cols : {1, 31, 129}) {
    const Weight weight = matrix.make(rows, cols, 23);
    const Weight* part = &weight;
    auto packed = backend().Pack({&part, 1}, {.compute = matrix.compute});
    ASSERT_OK(packed.status());
    const std::vector<int32_t> ids = {0, 128, 7, 7, 64};
    const auto output = NewArray(6, cols);
    ASSERT_OK(backend().Embed(**packed, ids, *output));
    const std::vector<float> y = Values(*output);
    const std::vector<float> w = DenseOf(weight);
    for (size_t t = 0; t < ids.size(); ++t) {
      for (int64_t col = 0; col < cols; ++col) {
        const float expected = w[ids[t] * cols + col];
        ASSERT_NEAR(y[t * cols + col], expected, matrix.tolerance * (0.5f + std::fabs(expected)))
            << ids[t] << ", " << col;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, EmbedOfEveryWeight, testing::ValuesIn(MatrixCases()),
                         [](const auto& info) { return info.param.name; });

class OperationsTest : public OpenClTest {};

TEST_F(OperationsTest, EmbedFindsRowsOfEveryPartAndRefusesOthers) {
  const Weight first = MatrixCaseNamed("F16").make(31, 33, 1);
  const Weight second = MatrixCaseNamed("Int8Row").make(33, 33, 2);
  const Weight* parts[] = {&first, &second};
  auto packed = backend().Pack(parts, {});
  ASSERT_OK(packed.status());
  const auto output = NewArray(2, 33);
  ASSERT_OK(backend().Embed(**packed, std::vector<int32_t>{30, 31}, *output));
  const std::vector<float> y = Values(*output);
  const std::vector<float> top = DenseOf(first);
  const std::vector<float> bottom = DenseOf(second);
  for (int col = 0; col < 33; ++col) {
    EXPECT_NEAR(y[col], top[30 * 33 + col], 1e-6);
    EXPECT_NEAR(y[33 + col], bottom[col], 1e-6);
  }
  EXPECT_FALSE(backend().Embed(**packed, std::vector<int32_t>{64}, *output).ok());
  EXPECT_FALSE(backend().Embed(**packed, std::vector<int32_t>{-1}, *output).ok());
}

TEST_F(OperationsTest, NormalizeMatchesTheFormulas) {
  for (const int64_t cols : {1, 31, 33, 129, 1000}) {
    for (const Norm::Kind kind : {Norm::Kind::kNone, Norm::Kind::kRms, Norm::Kind::kLayer}) {
      for (const bool in_place : {false, true}) {
        const int64_t tokens = 17;
        std::vector<float> x = RandomFloats(tokens * cols, 1);
        for (float& value : x) value += 3;  // a mean that a one-pass variance would feel
        const std::vector<float> residual = RandomFloats(tokens * cols, 2);
        const std::vector<float> weight = RandomFloats(cols, 3);
        const std::vector<float> bias = RandomFloats(cols, 4);
        const auto x_array = ArrayOf(tokens, cols, x);
        const auto residual_array = ArrayOf(tokens, cols, residual);
        const auto weight_array = ArrayOf(1, cols, weight);
        const auto bias_array = ArrayOf(1, cols, bias);
        const auto separate = NewArray(tokens, cols);
        DeviceArray& y_array = in_place ? *x_array : *separate;
        const Norm norm = {kind, weight_array.get(), bias_array.get(), 1e-5f};
        ASSERT_OK(backend().Normalize(*x_array, residual_array.get(), norm, tokens, y_array));
        const std::vector<float> y = Values(y_array);
        for (int64_t t = 0; t < tokens; ++t) {
          std::vector<double> z(cols);
          double mean = 0;
          for (int64_t c = 0; c < cols; ++c) {
            z[c] = static_cast<double>(x[t * cols + c]) + residual[t * cols + c];
            if (kind == Norm::Kind::kLayer) mean += z[c] / static_cast<double>(cols);
          }
          double squares = 0;
          for (const double value : z) squares += (value - mean) * (value - mean);
          const double scale = 1 / std::sqrt(squares / static_cast<double>(cols) + 1e-5);
          for (int64_t c = 0; c < cols; ++c) {
            double expected = z[c];
            if (kind != Norm::Kind::kNone) expected = (z[c] - mean) * scale * weight[c];
            if (kind == Norm::Kind::kLayer) expected += bias[c];
            // One column: the variance is 0 and 1/sqrt(epsilon) = 316 magnifies roundings.
            ASSERT_NEAR(y[t * cols + c], expected, cols == 1 ? 1e-3 : 2e-5) << t << ", " << c;
          }
        }
      }
    }
  }
}

TEST_F(OperationsTest, GatherRowsPicksRows) {
  const std::vector<float> x = RandomFloats(17 * 33, 1);
  const auto from = ArrayOf(17, 33, x);
  const auto to = NewArray(3, 33);
  ASSERT_OK(backend().GatherRows(*from, std::vector<int32_t>{16, 0, 16}, *to));
  const std::vector<float> y = Values(*to);
  for (int i = 0; i < 33; ++i) {
    EXPECT_EQ(y[i], x[16 * 33 + i]);
    EXPECT_EQ(y[33 + i], x[i]);
    EXPECT_EQ(y[66 + i], x[16 * 33 + i]);
  }
  EXPECT_FALSE(backend().GatherRows(*from, std::vector<int32_t>{17}, *to).ok());
}

TEST_F(OperationsTest, DownloadReadsTheRowsAskedFor) {
  const std::vector<float> x = RandomFloats(5 * 31, 1);
  const auto array = ArrayOf(5, 31, x);
  std::vector<float> out(2 * 31);
  ASSERT_OK(backend().Download(*array, 3, 2, out));
  EXPECT_EQ(out, std::vector<float>(x.begin() + 3 * 31, x.end()));
  EXPECT_FALSE(backend().Download(*array, 4, 2, out).ok());
  EXPECT_FALSE(backend().Download(*array, 0, 3, out).ok());
}

TEST_F(OperationsTest, UploadRefusesTooMuch) {
  const auto array = NewArray(1, 3);
  EXPECT_FALSE(backend().Upload(std::vector<float>(4), *array).ok());
}

}  // namespace
}  // namespace quantd

#include <tuple>

#include "tests/kernels/opencl/fixture.h"
#include "tests/kernels/opencl/matrices.h"

namespace quantd {
namespace {

struct Problem {
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t tokens = 0;
};

// One token and three go through LinearGemv, seventeen and more through the kernel for many.
constexpr Problem kProblems[] = {{31, 33, 1},   {129, 129, 1}, {129, 33, 3},  {1, 129, 3},
                                 {31, 129, 17}, {1, 33, 17},   {129, 129, 65}};
// Matrices narrower than a group. Every width is a program to build, so only some weights have
// them.
constexpr Problem kNarrowProblems[] = {{1, 1, 1}, {33, 31, 3}, {31, 1, 17}};

std::vector<Problem> ProblemsFor(const std::string& name) {
  std::vector<Problem> problems(std::begin(kProblems), std::end(kProblems));
  for (const char* narrow :
       {"F32", "F16", "Int8Row", "Int4Group", "Int4Asymmetric", "FlatOverRows"}) {
    if (name == narrow) {
      problems.insert(problems.end(), std::begin(kNarrowProblems), std::end(kNarrowProblems));
    }
  }
  return problems;
}

std::unique_ptr<PackedWeight> PackAll(Backend& backend, std::span<const Weight> weights,
                                      Compute compute) {
  std::vector<const Weight*> parts;
  for (const Weight& weight : weights) parts.push_back(&weight);
  auto packed = backend.Pack(parts, {.compute = compute});
  EXPECT_TRUE(packed.ok()) << packed.status();
  return packed.ok() ? *std::move(packed) : nullptr;
}

// sum w x and sum |w x| of one row and token.
std::pair<double, double> Product(const float* w, const float* x, int64_t cols) {
  double sum = 0;
  double magnitude = 0;
  for (int64_t col = 0; col < cols; ++col) {
    sum += static_cast<double>(w[col]) * x[col];
    magnitude += std::fabs(static_cast<double>(w[col]) * x[col]);
  }
  return {sum, magnitude};
}

class LinearOfEveryWeight : public OpenClTestWith<MatrixCase> {};

TEST_P(LinearOfEveryWeight, EqualsDequantizedProduct) {
  const MatrixCase& matrix = GetParam();
  for (const auto& [rows, cols, tokens] : ProblemsFor(matrix.name)) {
    SCOPED_TRACE(testing::Message() << rows << " x " << cols << ", " << tokens << " tokens");
    const Weight weight = matrix.make(rows, cols, 17);
    const auto packed = PackAll(backend(), {&weight, 1}, matrix.compute);
    ASSERT_NE(packed, nullptr);
    EXPECT_EQ(packed->rows(), rows);
    EXPECT_EQ(packed->cols(), cols);
    if (rows == 129 && cols == 129) {
      EXPECT_EQ(LayoutName(packed->layout()), LayoutName(matrix.layout));
    }
    const std::vector<float> x = RandomFloats(tokens * cols, 5);
    const auto input = ArrayOf(tokens, cols, x);
    const auto output = NewArray(tokens, rows);
    ASSERT_OK(backend().Linear({.weight = packed.get(),
                                .norm = {},
                                .x = input.get(),
                                .tokens = tokens,
                                .y = output.get()}));
    const std::vector<float> y = Values(*output);
    const std::vector<float> w = DenseOf(weight);
    for (int64_t i = 0; i < tokens * rows; ++i) {
      const auto [sum, magnitude] = Product(&w[i % rows * cols], &x[i / rows * cols], cols);
      ASSERT_NEAR(y[i], sum, matrix.tolerance * magnitude + 1e-7) << "element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearOfEveryWeight, testing::ValuesIn(MatrixCases()),
                         [](const auto& info) { return info.param.name; });

double Activated(Activation activation, double z) {
  switch (activation) {
    case Activation::kGelu:
      return 0.5 * z * (1 + std::erf(z / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * z * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
    case Activation::kRelu:
      return std::max(z, 0.0);
    case Activation::kSilu:
      return z / (1 + std::exp(-z));
    case Activation::kTanh:
      return std::tanh(z);
    default:
      return z;
  }
}

class LinearEpilogue : public OpenClTestWith<std::tuple<Activation, int64_t>> {};

TEST_P(LinearEpilogue, AppliesBiasActivationAndAliasedResidual) {
  const auto [activation, tokens] = GetParam();
  const int64_t rows = 33;
  const int64_t cols = 129;
  const Weight weight = MatrixCaseNamed("Int4Group").make(rows, cols, 3);
  const auto packed = PackAll(backend(), {&weight, 1}, Compute::kFast);
  const std::vector<float> x = RandomFloats(tokens * cols, 5);
  const std::vector<float> bias = RandomFloats(rows, 6);
  const std::vector<float> residual = RandomFloats(tokens * rows, 7);
  const auto input = ArrayOf(tokens, cols, x);
  const auto bias_array = ArrayOf(1, rows, bias);
  const auto y_array = ArrayOf(tokens, rows, residual);
  ASSERT_OK(backend().Linear({.weight = packed.get(),
                              .bias = bias_array.get(),
                              .norm = {},
                              .x = input.get(),
                              .tokens = tokens,
                              .activation = activation,
                              .residual = y_array.get(),
                              .y = y_array.get()}));
  const std::vector<float> y = Values(*y_array);
  const std::vector<float> w = DenseOf(weight);
  for (int64_t i = 0; i < tokens * rows; ++i) {
    const auto [sum, magnitude] = Product(&w[i % rows * cols], &x[i / rows * cols], cols);
    const double expected = Activated(activation, sum + bias[i % rows]) + residual[i];
    ASSERT_NEAR(y[i], expected, 1e-5 * (1 + magnitude)) << "element " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, LinearEpilogue,
                         testing::Combine(testing::Values(Activation::kNone, Activation::kGelu,
                                                          Activation::kGeluTanh, Activation::kRelu,
                                                          Activation::kSilu, Activation::kTanh),
                                          testing::Values(1, 17)));

class LinearTest : public OpenClTest {};

// Gate and up of different grids: two segments, combined afterwards.
TEST_F(LinearTest, SiluMulOfStackedPartsWithNorm) {
  const int64_t width = 31;
  const int64_t cols = 33;
  for (const char* second : {"Int4Group", "Int8Row"}) {
    for (const int64_t tokens : {1, 3, 17}) {
      SCOPED_TRACE(testing::Message() << second << ", " << tokens << " tokens");
      const Weight weights[] = {MatrixCaseNamed("Int4Group").make(width, cols, 1),
                                MatrixCaseNamed(second).make(width, cols, 2)};
      const auto packed = PackAll(backend(), weights, Compute::kFast);
      ASSERT_EQ(packed->rows(), 2 * width);
      const std::vector<float> x = RandomFloats(tokens * cols, 5);
      const std::vector<float> gain = RandomFloats(cols, 8);
      const std::vector<float> bias = RandomFloats(2 * width, 6);
      const std::vector<float> residual = RandomFloats(tokens * width, 9);
      const auto input = ArrayOf(tokens, cols, x);
      const auto gain_array = ArrayOf(1, cols, gain);
      const auto bias_array = ArrayOf(1, 2 * width, bias);
      const auto residual_array = ArrayOf(tokens, width, residual);
      const auto output = NewArray(tokens, width);
      ASSERT_OK(backend().Linear(
          {.weight = packed.get(),
           .bias = bias_array.get(),
           .norm = {.kind = Norm::Kind::kRms, .weight = gain_array.get(), .epsilon = 1e-5f},
           .x = input.get(),
           .tokens = tokens,
           .activation = Activation::kSiluMul,
           .residual = residual_array.get(),
           .y = output.get()}));
      const std::vector<float> y = Values(*output);
      const std::vector<float> gate = DenseOf(weights[0]);
      const std::vector<float> up = DenseOf(weights[1]);
      for (int64_t token = 0; token < tokens; ++token) {
        double squares = 0;
        for (int64_t c = 0; c < cols; ++c) squares += std::pow(x[token * cols + c], 2);
        const double scale = 1 / std::sqrt(squares / cols + 1e-5);
        std::vector<float> normed(cols);
        for (int64_t c = 0; c < cols; ++c) {
          normed[c] = static_cast<float>(x[token * cols + c] * scale * gain[c]);
        }
        for (int64_t row = 0; row < width; ++row) {
          const double g = Product(&gate[row * cols], normed.data(), cols).first + bias[row];
          const double u = Product(&up[row * cols], normed.data(), cols).first + bias[width + row];
          const double expected =
              Activated(Activation::kSilu, g) * u + residual[token * width + row];
          ASSERT_NEAR(y[token * width + row], expected, 2e-5) << token << ", " << row;
        }
      }
    }
  }
}

TEST_F(LinearTest, EqualFormatsAreStackedAndOthersKeepTheirs) {
  const Weight q = MatrixCaseNamed("Int4Group").make(33, 129, 1);
  const Weight k = MatrixCaseNamed("Int4Group").make(1, 129, 2);
  const Weight v = MatrixCaseNamed("F16").make(31, 129, 3);
  const Weight* parts[] = {&q, &k, &v};
  auto packed = backend().Pack(parts, {});
  ASSERT_OK(packed.status());
  const std::vector<float> x = RandomFloats(129, 5);
  const auto input = ArrayOf(1, 129, x);
  const auto output = NewArray(1, 65);
  ASSERT_OK(backend().Linear(
      {.weight = packed->get(), .norm = {}, .x = input.get(), .tokens = 1, .y = output.get()}));
  const std::vector<float> y = Values(*output);
  std::vector<float> w;
  for (const Weight* part : parts) {
    const std::vector<float> dense = DenseOf(*part);
    w.insert(w.end(), dense.begin(), dense.end());
  }
  for (int64_t row = 0; row < 65; ++row) {
    const auto [sum, magnitude] = Product(&w[row * 129], x.data(), 129);
    ASSERT_NEAR(y[row], sum, 2e-6 * magnitude) << row;
  }
}

// y = W (rotate(norm(x) * multiplier))[order], the steps one by one in double.
TEST_F(LinearTest, OrdersTheInputsAfterTheOtherSteps) {
  const int64_t rows = 31, cols = 96, size = 32;
  const Weight weight = MatrixCaseNamed("F32").make(rows, cols, 4);
  const auto packed = PackAll(backend(), {&weight, 1}, Compute::kExact);
  const std::vector<float> w = DenseOf(weight);
  const std::vector<float> gain = RandomFloats(cols, 5), multiplier = RandomFloats(cols, 6);
  const auto gain_array = ArrayOf(1, cols, gain), multiplier_array = ArrayOf(1, cols, multiplier);
  std::vector<int32_t> order(cols);
  for (int64_t c = 0; c < cols; ++c) order[c] = static_cast<int32_t>((c * 35 + 11) % cols);
  const auto order_array = backend().UploadOrder(order);
  ASSERT_OK(order_array.status());
  for (const int64_t tokens : {1, 17}) {
    const std::vector<float> x = RandomFloats(tokens * cols, 7);
    const auto input = ArrayOf(tokens, cols, x);
    for (int with = 0; with < 8; ++with) {
      SCOPED_TRACE(testing::Message() << with << ", " << tokens << " tokens");
      const bool normed = with & 1, scaled = with & 2, rotated = with & 4;
      LinearArgs args = {.weight = packed.get(), .norm = {}, .x = input.get(), .tokens = tokens};
      if (normed) {
        args.norm = {.kind = Norm::Kind::kRms, .weight = gain_array.get(), .epsilon = 1e-5f};
      }
      if (scaled) args.steps.multiplier = multiplier_array.get();
      if (rotated) args.steps.hadamard_size = size;
      args.steps.order = order_array->get();
      const auto output = NewArray(tokens, rows);
      args.y = output.get();
      ASSERT_OK(backend().Linear(args));
      const std::vector<float> y = Values(*output);
      for (int64_t t = 0; t < tokens; ++t) {
        double squares = 0;
        for (int64_t c = 0; c < cols; ++c) squares += std::pow(x[t * cols + c], 2);
        std::vector<double> z(cols);
        for (int64_t c = 0; c < cols; ++c) {
          z[c] = x[t * cols + c] * (normed ? gain[c] / std::sqrt(squares / cols + 1e-5) : 1.0) *
                 (scaled ? multiplier[c] : 1.0f);
        }
        std::vector<float> gathered(cols);
        for (int64_t c = 0; c < cols; ++c) {
          const int64_t from = order[c];
          double value = rotated ? 0 : z[from];
          for (int64_t i = 0; rotated && i < size; ++i) {
            const bool odd = __builtin_popcountll(i & (from % size)) % 2 == 1;
            value += z[from / size * size + i] * (odd ? -1 : 1) / std::sqrt(double(size));
          }
          gathered[c] = static_cast<float>(value);
        }
        for (int64_t row = 0; row < rows; ++row) {
          const auto [sum, magnitude] = Product(&w[row * cols], gathered.data(), cols);
          ASSERT_NEAR(y[t * rows + row], sum, 3e-6 * magnitude) << t << ", " << row;
        }
      }
    }
  }
}

TEST_F(LinearTest, WrongOrdersAreRefused) {
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{0, 2}, {0, -1}}) {
    EXPECT_EQ(backend().UploadOrder(wrong).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const Weight weight = MatrixCaseNamed("F32").make(31, 33, 1);
  const auto packed = PackAll(backend(), {&weight, 1}, Compute::kFast);
  const auto order = *backend().UploadOrder(std::vector<int32_t>{1, 0});
  const auto input = NewArray(1, 33);
  const auto output = NewArray(1, 31);
  EXPECT_EQ(backend()
                .Linear({.weight = packed.get(),
                         .norm = {},
                         .steps = {.order = order.get()},
                         .x = input.get(),
                         .tokens = 1,
                         .y = output.get()})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(LinearTest, WrongShapesAreRefused) {
  const Weight weight = MatrixCaseNamed("F32").make(31, 33, 1);
  const auto packed = PackAll(backend(), {&weight, 1}, Compute::kFast);
  const auto input = NewArray(1, 32);
  const auto output = NewArray(1, 31);
  EXPECT_EQ(backend()
                .Linear({.weight = packed.get(),
                         .norm = {},
                         .x = input.get(),
                         .tokens = 1,
                         .y = output.get()})
                .code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace quantd

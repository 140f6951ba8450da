#include <gtest/gtest.h>

#include <cmath>

#include "core/parallel.h"
#include "tests/kernels/testing.h"

namespace quantd::testing {
namespace {

// What the arithmetic of kFast may cost on Gaussian activations, as relative error of the result.
// Activations keep 15 bits, which is 1e-5; f16 scales and offsets 11 bits, 2^-12 / sqrt(3) = 1.4e-4
// each, more where an offset cancels what it is added to.
double Tolerance(Compute compute) { return compute == Compute::kExact ? 1e-5 : 1e-3; }

struct Shape2 {
  int64_t rows, cols;
};
constexpr Shape2 kShapes[] = {{1, 1}, {31, 33}, {16, 64}, {50, 129}, {64, 576}, {48, 320}};
constexpr int64_t kBatches[] = {1, 2, 3, 5, 13, 33, 129};

class LinearOnIsa : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<Backend> backend_ = BackendOn(GetParam());
};

TEST_P(LinearOnIsa, EveryWeightKindMatchesDequantizedMatMul) {
  for (const WeightKind& kind : WeightKinds()) {
    for (const auto& [rows, cols] : kShapes) {
      const Weight weight = kind.make(rows, cols, 1);
      // Larger matrices with fewer tokens: the reference takes most of the time.
      const int64_t most = cols < 300 ? 129 : 13;
      const std::vector<float> x = RandomFloats(most * cols, 2);
      const std::vector<double> expected = MatMul(x, DenseOf(weight), most, rows, cols);
      // One column has no averaging: a single rounding may be twice as large as the mean one.
      const double slack = cols < 32 ? 2 : 1;
      for (const Compute compute : {Compute::kFast, Compute::kExact}) {
        const auto packed = PackOne(*backend_, weight, compute);
        for (const int64_t tokens : kBatches) {
          if (tokens > most) continue;
          if (compute == Compute::kExact && tokens != 3 && tokens != 13) continue;
          const std::vector<float> some(x.begin(), x.begin() + tokens * cols);
          EXPECT_LT(RelativeError(RunLinear(*backend_, *packed, some, tokens),
                                  {expected.begin(), expected.begin() + tokens * rows}),
                    slack * Tolerance(compute))
              << kind.name << " [" << rows << ", " << cols << "] x " << tokens;
        }
      }
    }
  }
}

TEST_P(LinearOnIsa, LayoutIsTheCheapestThatHoldsTheWeight) {
  for (const WeightKind& kind : WeightKinds()) {
    const auto packed = PackOne(*backend_, kind.make(64, 256, 3));
    EXPECT_EQ(packed->layout(), kind.layout) << kind.name;
    EXPECT_EQ(PackOne(*backend_, kind.make(64, 256, 3), Compute::kExact)->layout(), Layout::kDense);
    EXPECT_LE(packed->bytes(), 64u * 256 * 4) << kind.name;
  }
}

TEST_P(LinearOnIsa, FourBitsStayFourBits) {
  for (const WeightKind& kind : WeightKinds()) {
    if (kind.name != "int4_group32" && kind.name != "nf4_64") continue;
    const double bits = 8.0 * PackOne(*backend_, kind.make(256, 1024, 3))->bytes() / (256 * 1024);
    EXPECT_LE(bits, 4.5) << kind.name;
  }
}

TEST_P(LinearOnIsa, TokenDoesNotDependOnItsBatch) {
  constexpr int64_t kRows = 50, kCols = 256, kTokens = 29;
  for (const WeightKind& kind : WeightKinds()) {
    const auto packed = PackOne(*backend_, kind.make(kRows, kCols, 4));
    const std::vector<float> x = RandomFloats(kTokens * kCols, 5);
    const std::vector<float> together = RunLinear(*backend_, *packed, x, kTokens);
    for (const int64_t t : {int64_t{0}, int64_t{7}, kTokens - 1}) {
      const std::vector<float> own(x.begin() + t * kCols, x.begin() + (t + 1) * kCols);
      const std::vector<float> alone = RunLinear(*backend_, *packed, own, 1);
      for (int64_t r = 0; r < kRows; ++r) {
        ASSERT_EQ(alone[r], together[t * kRows + r]) << kind.name << " token " << t;
      }
    }
  }
}

TEST_P(LinearOnIsa, ResultDoesNotDependOnThreads) {
  const WeightKind kind = WeightKinds()[6];
  const auto packed = PackOne(*backend_, kind.make(333, 256, 4));
  const std::vector<float> x = RandomFloats(13 * 256, 5);
  const std::vector<float> before = RunLinear(*backend_, *packed, x, 13);
  SetComputeThreads(3);
  const std::vector<float> after = RunLinear(*backend_, *packed, x, 13);
  SetComputeThreads(1);
  const std::vector<float> alone = RunLinear(*backend_, *packed, x, 13);
  SetComputeThreads(0);
  EXPECT_EQ(before, after);
  EXPECT_EQ(before, alone);
}

TEST_P(LinearOnIsa, MatchesScalarReference) {
  const auto reference = BackendOn("scalar");
  for (const WeightKind& kind : WeightKinds()) {
    if (kind.layout != Layout::kIntGroup && kind.layout != Layout::kInt8Row) continue;
    const Weight weight = kind.make(48, 320, 6);
    const std::vector<float> x = RandomFloats(13 * 320, 7);
    const std::vector<float> expected = RunLinear(*reference, *PackOne(*reference, weight), x, 13);
    // Integer sums are exact; only fused multiply-adds over the blocks may differ.
    EXPECT_LT(RelativeError(RunLinear(*backend_, *PackOne(*backend_, weight), x, 13),
                            {expected.begin(), expected.end()}),
              2e-6)
        << kind.name;
  }
}

TEST_P(LinearOnIsa, OutlierChannelsDoNotDrownTheRest) {
  constexpr int64_t kCols = 576, kRows = 64, kTokens = 5;
  for (const WeightKind& kind : WeightKinds()) {
    const Weight weight = kind.make(kRows, kCols, 8);
    std::vector<float> x = RandomFloats(kTokens * kCols, 9);
    for (int64_t t = 0; t < kTokens; ++t) x[t * kCols + 77] = 60;  // massive activations
    const double error =
        RelativeError(RunLinear(*backend_, *PackOne(*backend_, weight), x, kTokens),
                      MatMul(x, DenseOf(weight), kTokens, kRows, kCols));
    EXPECT_LT(error, 1e-3) << kind.name;
  }
}

TEST_P(LinearOnIsa, NormBiasActivationAndResidualAreFused) {
  constexpr int64_t kRows = 37, kCols = 100, kTokens = 5;
  const Weight weight = WeightKinds()[0].make(kRows, kCols, 10);
  const auto packed = PackOne(*backend_, weight, Compute::kExact);
  const std::vector<float> x = RandomFloats(kTokens * kCols, 11, 3);
  const std::vector<float> gain = RandomFloats(kCols, 12), shift = RandomFloats(kCols, 13);
  const std::vector<float> bias = RandomFloats(kRows, 14);
  const std::vector<float> residual = RandomFloats(kTokens * kRows, 15);
  const auto gain_array = ArrayOf(*backend_, 1, kCols, gain);
  const auto shift_array = ArrayOf(*backend_, 1, kCols, shift);
  const auto bias_array = ArrayOf(*backend_, 1, kRows, bias);
  const auto residual_array = ArrayOf(*backend_, kTokens, kRows, residual);

  std::vector<float> normed(x.size());
  for (int64_t t = 0; t < kTokens; ++t) {
    double mean = 0, square = 0;
    for (int64_t c = 0; c < kCols; ++c) mean += x[t * kCols + c] / double{kCols};
    for (int64_t c = 0; c < kCols; ++c) square += std::pow(x[t * kCols + c] - mean, 2) / kCols;
    for (int64_t c = 0; c < kCols; ++c) {
      normed[t * kCols + c] = static_cast<float>(
          (x[t * kCols + c] - mean) / std::sqrt(square + 1e-5) * gain[c] + shift[c]);
    }
  }
  std::vector<double> expected = MatMul(normed, DenseOf(weight), kTokens, kRows, kCols);
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t r = 0; r < kRows; ++r) {
      const double v = expected[t * kRows + r] + bias[r];
      expected[t * kRows + r] =
          0.5 * v * (1 + std::erf(v / std::sqrt(2.0))) + residual[t * kRows + r];
    }
  }
  LinearArgs args;
  args.norm = {Norm::Kind::kLayer, gain_array.get(), shift_array.get(), 1e-5f};
  args.bias = bias_array.get();
  args.activation = Activation::kGelu;
  args.residual = residual_array.get();
  EXPECT_LT(RelativeError(RunLinear(*backend_, *packed, x, kTokens, args), expected), 1e-5);
}

// y = W (rotate(norm(x) * multiplier))[order], the steps one by one in double.
TEST_P(LinearOnIsa, OrdersTheInputsAfterTheOtherSteps) {
  constexpr int64_t kRows = 37, kCols = 96, kSize = 32;
  const Weight weight = WeightKinds()[0].make(kRows, kCols, 4);
  const auto packed = PackOne(*backend_, weight, Compute::kExact);
  const std::vector<float> gain = RandomFloats(kCols, 5), multiplier = RandomFloats(kCols, 6);
  const auto gain_array = ArrayOf(*backend_, 1, kCols, gain);
  const auto multiplier_array = ArrayOf(*backend_, 1, kCols, multiplier);
  std::vector<int32_t> order(kCols);
  for (int64_t c = 0; c < kCols; ++c) order[c] = static_cast<int32_t>((c * 35 + 11) % kCols);
  const auto order_array = backend_->UploadOrder(order);
  ASSERT_TRUE(order_array.ok()) << order_array.status();
  for (const int64_t tokens : {1, 14}) {
    for (int with = 0; with < 8; ++with) {
      const bool normed = with & 1, scaled = with & 2, rotated = with & 4;
      const std::vector<float> x = RandomFloats(tokens * kCols, 7);
      std::vector<float> gathered(x.size());
      for (int64_t t = 0; t < tokens; ++t) {
        std::vector<double> z(&x[t * kCols], &x[t * kCols] + kCols);
        double square = 0;
        for (const double value : z) square += value * value / kCols;
        for (int64_t c = 0; c < kCols; ++c) {
          if (normed) z[c] = z[c] / std::sqrt(square + 1e-5) * gain[c];
          if (scaled) z[c] *= multiplier[c];
        }
        for (int64_t c = 0; c < kCols; ++c) {
          const int64_t from = order[c];
          double value = rotated ? 0 : z[from];
          for (int64_t i = 0; rotated && i < kSize; ++i) {
            const bool odd = __builtin_popcountll(i & (from % kSize)) % 2 == 1;
            value += z[from / kSize * kSize + i] * (odd ? -1 : 1) / std::sqrt(double{kSize});
          }
          gathered[t * kCols + c] = static_cast<float>(value);
        }
      }
      LinearArgs args;
      if (normed) args.norm = {Norm::Kind::kRms, gain_array.get(), nullptr, 1e-5f};
      if (scaled) args.steps.multiplier = multiplier_array.get();
      if (rotated) args.steps.hadamard_size = kSize;
      args.steps.order = order_array->get();
      EXPECT_LT(RelativeError(RunLinear(*backend_, *packed, x, tokens, args),
                              MatMul(gathered, DenseOf(weight), tokens, kRows, kCols)),
                1e-6)  // float32
          << with << ", " << tokens << " tokens";
    }
  }
}

TEST_P(LinearOnIsa, RefusesOrdersOfOtherColumns) {
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{0, 2}, {0, -1}}) {
    EXPECT_EQ(backend_->UploadOrder(wrong).status().code(), absl::StatusCode::kInvalidArgument);
  }
  const auto packed = PackOne(*backend_, WeightKinds()[0].make(16, 96, 1));
  const auto x = ArrayOf(*backend_, 1, 96, RandomFloats(96, 2));
  const auto y = ArrayOf(*backend_, 1, 16, {});
  const auto order = *backend_->UploadOrder(std::vector<int32_t>{1, 0});
  const LinearArgs args = {.weight = packed.get(),
                           .steps = {.order = order.get()},
                           .x = x.get(),
                           .tokens = 1,
                           .y = y.get()};
  EXPECT_EQ(backend_->Linear(args).code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(LinearOnIsa, StepsRefuseRunsThatDoNotFit) {
  const auto packed = PackOne(*backend_, WeightKinds()[0].make(16, 96, 1));
  const auto x = ArrayOf(*backend_, 1, 96, RandomFloats(96, 2));
  const auto y = ArrayOf(*backend_, 1, 16, RandomFloats(16, 3));
  for (const int64_t size : {3, 64}) {
    const LinearArgs args = {.weight = packed.get(),
                             .steps = {.hadamard_size = size},
                             .x = x.get(),
                             .tokens = 1,
                             .y = y.get()};
    EXPECT_EQ(backend_->Linear(args).code(), absl::StatusCode::kInvalidArgument) << size;
  }
}

TEST_P(LinearOnIsa, SiluMulCombinesGateAndUp) {
  struct Case {
    std::vector<int64_t> parts;  // rows
  };
  const Case cases[] = {{{48, 48}}, {{37, 37}}, {{96}}, {{74}}, {{40, 30, 4}}};
  for (const Case& c : cases) {
    for (const int64_t tokens : {1, 3, 14}) {
      constexpr int64_t kCols = 96;
      std::vector<Weight> weights;
      std::vector<float> dense;
      for (size_t i = 0; i < c.parts.size(); ++i) {
        weights.push_back(WeightKinds()[0].make(c.parts[i], kCols, 20 + i));
        const std::vector<float> part = DenseOf(weights.back());
        dense.insert(dense.end(), part.begin(), part.end());
      }
      std::vector<const Weight*> pointers;
      for (const Weight& w : weights) pointers.push_back(&w);
      auto packed = backend_->Pack(std::span<const Weight* const>(pointers),
                                   {.compute = Compute::kExact, .pair_gate_up = true});
      ASSERT_TRUE(packed.ok());
      const int64_t rows = (*packed)->rows(), half = rows / 2;
      const std::vector<float> x = RandomFloats(tokens * kCols, 30, 2);
      const std::vector<float> bias = RandomFloats(rows, 31);
      const auto bias_array = ArrayOf(*backend_, 1, rows, bias);
      const std::vector<double> y = MatMul(x, dense, tokens, rows, kCols);
      std::vector<double> expected(static_cast<size_t>(tokens * half));
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t r = 0; r < half; ++r) {
          const double gate = y[t * rows + r] + bias[r];
          expected[t * half + r] =
              gate / (1 + std::exp(-gate)) * (y[t * rows + half + r] + bias[half + r]);
        }
      }
      LinearArgs args;
      args.bias = bias_array.get();
      args.activation = Activation::kSiluMul;
      EXPECT_LT(RelativeError(RunLinear(*backend_, **packed, x, tokens, args), expected), 1e-5)
          << c.parts.size() << " parts, " << tokens << " tokens";
    }
  }
}

TEST_P(LinearOnIsa, PartsOfDifferentGridsKeepTheirLayouts) {
  constexpr int64_t kCols = 128, kTokens = 13;
  const std::vector<WeightKind> kinds = WeightKinds();
  std::vector<Weight> weights;
  std::vector<float> dense;
  for (const size_t i : {size_t{1}, size_t{6}, size_t{8}, size_t{17}}) {
    weights.push_back(kinds[i].make(21, kCols, 40 + i));
    const std::vector<float> part = DenseOf(weights.back());
    dense.insert(dense.end(), part.begin(), part.end());
  }
  const Weight* parts[] = {&weights[0], &weights[1], &weights[2], &weights[3]};
  auto packed = backend_->Pack(parts, {});
  ASSERT_TRUE(packed.ok());
  const std::vector<float> x = RandomFloats(kTokens * kCols, 50);
  for (const int64_t tokens : {int64_t{1}, kTokens}) {
    const std::vector<float> some(x.begin(), x.begin() + tokens * kCols);
    EXPECT_LT(RelativeError(RunLinear(*backend_, **packed, some, tokens),
                            MatMul(some, dense, tokens, 84, kCols)),
              1e-3);
  }
}

TEST_P(LinearOnIsa, ResidualMayBeTheResult) {
  constexpr int64_t kWidth = 64;
  const auto packed = PackOne(*backend_, WeightKinds()[0].make(kWidth, kWidth, 60));
  const std::vector<float> x = RandomFloats(kWidth, 61);
  const std::vector<float> expected = RunLinear(*backend_, *packed, x, 1);
  const auto array = ArrayOf(*backend_, 1, kWidth, x);
  LinearArgs args;
  args.weight = packed.get();
  args.x = args.residual = array.get();
  args.y = array.get();
  args.tokens = 1;
  RunCompute(TaskPriority::kInteractive, [&] { ASSERT_TRUE(backend_->Linear(args).ok()); });
  const std::vector<float> found = Read(*backend_, *array);
  for (int64_t i = 0; i < kWidth; ++i) EXPECT_EQ(found[i], expected[i] + x[i]);
}

TEST_P(LinearOnIsa, NonFiniteActivationsStayVisible) {
  for (const WeightKind& kind : WeightKinds()) {
    const auto packed = PackOne(*backend_, kind.make(16, 64, 70));
    std::vector<float> x = RandomFloats(64, 71);
    x[5] = std::nanf("");
    for (const float y : RunLinear(*backend_, *packed, x, 1)) EXPECT_FALSE(std::isfinite(y));
  }
}

TEST_P(LinearOnIsa, RefusesShapesThatDoNotFit) {
  const auto packed = PackOne(*backend_, WeightKinds()[0].make(8, 16, 80));
  const auto x = ArrayOf(*backend_, 2, 16, {});
  const auto y = ArrayOf(*backend_, 2, 9, {});
  LinearArgs args;
  args.weight = packed.get();
  args.x = x.get();
  args.y = y.get();
  args.tokens = 2;
  RunCompute(TaskPriority::kInteractive,
             [&] { EXPECT_EQ(backend_->Linear(args).code(), absl::StatusCode::kInvalidArgument); });
}

INSTANTIATE_TEST_SUITE_P(AllIsas, LinearOnIsa, ::testing::ValuesIn(SupportedIsas()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace quantd::testing

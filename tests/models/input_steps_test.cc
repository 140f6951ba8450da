// Weights whose inputs are rotated or scaled stay packed, and their layers mean the same as the
// dense matrices that exact compute makes of them; int8 inputs of exact compute are multiplied
// exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "core/hadamard.h"
#include "core/parallel.h"
#include "memory_source.h"
#include "models/linear.h"
#include "tests/random_floats.h"

namespace quantd {
namespace {

// Four-bit codes of a table, scales per 32 columns.
QuantizedTensor FourBit(int64_t rows, int64_t cols, uint32_t seed) {
  QuantizedTensor t;
  t.rows = rows;
  t.cols = cols;
  std::vector<float> table;
  for (int i = 0; i < 16; ++i) table.push_back(std::sinh(0.2f * static_cast<float>(i - 8)));
  t.grid = TableGrid(4, table);
  t.block = {.rows = 1, .cols = 32};
  std::mt19937 engine(seed);
  for (int64_t i = 0; i < rows * cols; ++i) t.codes.push_back(engine() % 16);
  for (int64_t i = 0; i < rows * cols / 32; ++i)
    t.scale.push_back(0.5f + 0.001f * (engine() % 999));
  return t;
}

class InputStepsOf : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto backend = CreateBackend(GetParam());
    if (!backend.ok()) GTEST_SKIP() << backend.status();
    backend_ = *std::move(backend);
  }

  Linear Load(const std::vector<QuantizedTensor>& parts, Compute compute,
              bool round_inputs = false) {
    MemorySource source{ModelConfig()};
    std::vector<Linear::Part> names;
    for (const QuantizedTensor& part : parts) {
      const std::string name(1, static_cast<char>('a' + names.size()));
      source.Set(name + ".weight", part);
      names.push_back({name, part.rows});
    }
    auto linear = Linear::Load(source, *backend_, names, parts[0].cols,
                               {.compute = compute, .round_inputs = round_inputs});
    EXPECT_TRUE(linear.ok()) << linear.status();
    return *std::move(linear);
  }

  std::vector<float> Run(const Linear& linear, const std::vector<float>& x, int64_t in,
                         int64_t out) {
    const int64_t tokens = static_cast<int64_t>(x.size()) / in;
    const auto input = *backend_->Allocate(tokens, in);
    const auto output = *backend_->Allocate(tokens, out);
    std::vector<float> y(static_cast<size_t>(tokens * out));
    absl::Status status = backend_->Upload(x, *input);
    RunCompute(TaskPriority::kInteractive, [&] {
      if (status.ok()) {
        status = linear.Apply(*backend_, {.x = input.get(), .tokens = tokens, .y = output.get()});
      }
      if (status.ok()) status = backend_->Download(*output, 0, tokens, y);
    });
    EXPECT_TRUE(status.ok()) << status;
    return y;
  }

  // Fast against exact compute, for few and for many tokens.
  void ExpectSameMeaning(const std::vector<QuantizedTensor>& parts, int64_t pieces) {
    const int64_t cols = parts[0].cols;
    int64_t rows = 0;
    for (const QuantizedTensor& part : parts) rows += part.rows;
    const Linear fast = Load(parts, Compute::kFast), exact = Load(parts, Compute::kExact);
    EXPECT_EQ(fast.pieces(), pieces);
    for (int64_t piece = 0; piece < fast.pieces(); ++piece) {
      EXPECT_EQ(fast.weight(piece).layout(), Layout::kLut4);
    }
    for (const int64_t tokens : {1, 21}) {
      const std::vector<float> x = RandomFloats(tokens * cols, 7);
      const std::vector<float> y = Run(fast, x, cols, rows), truth = Run(exact, x, cols, rows);
      double error = 0, norm = 0;
      for (size_t i = 0; i < y.size(); ++i) {
        error += std::pow(y[i] - truth[i], 2);
        norm += std::pow(truth[i], 2);
      }
      // Scales in f16.
      EXPECT_LT(std::sqrt(error / norm), 5e-4) << tokens;
    }
  }

  std::unique_ptr<Backend> backend_;
};

TEST_P(InputStepsOf, RotatedWeightsStayPacked) {
  for (const int size : {2, 16, 64, 256}) {
    SCOPED_TRACE(size);
    std::vector<QuantizedTensor> parts = {FourBit(48, 256, 1), FourBit(16, 256, 2)};
    for (QuantizedTensor& part : parts) part.input.hadamard_size = size;
    ExpectSameMeaning(parts, 1);
  }
}

// 0.1767578125 is bfloat16's 1 / sqrt(32).
TEST_P(InputStepsOf, MultiplesOfTheHadamardMatrixAreRotationsToo) {
  for (const float factor : {0.1767578125f, -3.0f}) {
    SCOPED_TRACE(factor);
    std::vector<QuantizedTensor> parts = {FourBit(48, 256, 1), FourBit(16, 256, 2)};
    for (QuantizedTensor& part : parts) {
      part.input.hadamard_size = 32;
      part.input.rotation.assign(32 * 32, 0.0f);
      for (int i = 0; i < 32; ++i) {
        part.input.rotation[i * 33] = factor;
        HadamardTransform(&part.input.rotation[i * 32], 32);
      }
    }
    EXPECT_EQ(HadamardFactor(parts[0].input.rotation, 32), factor);
    ExpectSameMeaning(parts, 1);
    parts[1].input.rotation[5] = 0;
    EXPECT_EQ(HadamardFactor(parts[1].input.rotation, 32), std::nullopt);
    ExpectSameMeaning(parts, 2);
  }
}

// FP-Quant's, which need be neither orthogonal nor symmetric.
TEST_P(InputStepsOf, WeightsRotatedByMatricesStayPacked) {
  for (const int size : {16, 128}) {
    SCOPED_TRACE(size);
    std::vector<QuantizedTensor> parts = {FourBit(48, 256, 1), FourBit(16, 256, 2)};
    for (QuantizedTensor& part : parts) {
      part.input.hadamard_size = size;
      part.input.rotation = RandomFloats(size * size, 3);
    }
    ExpectSameMeaning(parts, 1);
    parts[1].input.rotation[0] += 1;
    ExpectSameMeaning(parts, 2);
  }
}

TEST_P(InputStepsOf, ChannelScalesAreAppliedToTheInputs) {
  std::vector<QuantizedTensor> parts = {FourBit(32, 96, 1), FourBit(32, 96, 2), FourBit(16, 96, 3)};
  for (int64_t c = 0; c < 96; ++c) {
    parts[0].input.channel_scale.push_back(0.5f + 0.01f * static_cast<float>(c));
  }
  parts[1].input = parts[0].input;
  ExpectSameMeaning(parts, 2);  // the last part takes the inputs as they are
  parts[0].input.hadamard_size = 32;
  ExpectSameMeaning(parts, 3);
}

// SINQ's dual scales.
TEST_P(InputStepsOf, ColumnScalesAreAppliedToTheInputs) {
  std::vector<QuantizedTensor> parts = {FourBit(32, 96, 1), FourBit(32, 96, 2), FourBit(16, 96, 3)};
  for (int64_t c = 0; c < 96; ++c) {
    parts[0].column_scale.push_back(c == 7 ? 0.0f : 2.0f - 0.01f * static_cast<float>(c));
  }
  parts[1].column_scale = parts[0].column_scale;
  ExpectSameMeaning(parts, 2);
  parts[0].input.channel_scale.assign(96, 3.0f);
  ExpectSameMeaning(parts, 3);
}

// Any order of `cols` columns.
std::vector<int32_t> Shuffled(int64_t cols, uint32_t seed) {
  std::vector<int32_t> order(static_cast<size_t>(cols));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  return order;
}

// GPTQ's act-order: exact compute has dense matrices in the inputs' order, fast compute gathers the
// inputs in the order of the groups.
TEST_P(InputStepsOf, GroupsInAnotherOrderStayPacked) {
  std::vector<QuantizedTensor> parts = {FourBit(48, 96, 1), FourBit(32, 96, 2), FourBit(16, 96, 3)};
  for (QuantizedTensor& part : parts) part.input.permutation = Shuffled(96, 4);
  ExpectSameMeaning(parts, 1);
  parts[1].input.permutation = Shuffled(96, 5);
  ExpectSameMeaning(parts, 3);
  parts[0].input.hadamard_size = 32;
  for (int64_t c = 0; c < 96; ++c) {
    parts[0].input.channel_scale.push_back(0.5f + 0.01f * static_cast<float>(c));
  }
  ExpectSameMeaning(parts, 3);
}

// Groups that change places as a whole do so in the codes.
TEST_P(InputStepsOf, GroupsMovedAsAWholeNeedNoOtherInputs) {
  std::vector<QuantizedTensor> parts = {FourBit(48, 96, 1), FourBit(32, 96, 2)};
  for (int32_t c = 0; c < 96; ++c) parts[1].input.permutation.push_back((c + 32) % 96);
  ExpectSameMeaning(parts, 1);
}

// The last bit of upstream's `sum / (weight_scale * 127 / largest)`.
TEST_P(InputStepsOf, Int8InputsAreMultipliedExactly) {
  constexpr int64_t kRows = 24, kCols = 200;
  const float stored[] = {21.125f, 1.9921875f};  // bfloat16, as BitNet's weight_scale
  std::vector<QuantizedTensor> parts;
  for (const float scale : stored) {
    QuantizedTensor t;
    t.rows = kRows;
    t.cols = kCols;
    t.grid = UniformGrid(2, /*is_signed=*/false);
    t.grid.first = -1;
    t.block = {.rows = 0, .cols = 0};
    t.scale = {1.0f / scale};
    for (int64_t i = 0; i < kRows * kCols; ++i) t.codes.push_back((i * 7 + i / 5) % 3);
    t.input.int8_tokens = true;
    parts.push_back(t);
  }
  const Linear linear = Load(parts, Compute::kExact);
  EXPECT_EQ(linear.pieces(), 1);
  for (const int64_t tokens : {1, 21}) {
    const std::vector<float> x = RandomFloats(tokens * kCols, 9);
    const std::vector<float> y = Run(linear, x, kCols, 2 * kRows);
    for (int64_t t = 0; t < tokens; ++t) {
      float largest = 0;
      for (int64_t c = 0; c < kCols; ++c) largest = std::max(largest, std::abs(x[t * kCols + c]));
      const float steps = 127.0f / largest;
      for (int64_t r = 0; r < 2 * kRows; ++r) {
        int64_t sum = 0;
        for (int64_t c = 0; c < kCols; ++c) {
          const int trit = parts[0].codes[r % kRows * kCols + c] - 1;
          sum += trit * static_cast<int64_t>(std::nearbyint(x[t * kCols + c] * steps));
        }
        const float expected = static_cast<float>(sum) / (stored[r / kRows] * steps);
        if (GetParam() == "cpu") {
          ASSERT_EQ(y[t * 2 * kRows + r], expected) << t << ", " << r;
        } else {  // OpenCL divides to 2.5 units in the last place
          ASSERT_NEAR(y[t * 2 * kRows + r], expected, 1e-6f * std::abs(expected)) << t << ", " << r;
        }
      }
    }
  }
}

// Against RoundInputs of core, for parts with one rounding and with two.
TEST_P(InputStepsOf, InputsAreRoundedAsTheWeightsAsk) {
  using Values = InputRounding::Values;
  constexpr int64_t kCols = 96, kRows = 32;
  const InputRounding roundings[] = {
      {.values = Values::kInteger, .scale = 0.0213f},
      {.values = Values::kInteger, .symmetric = false, .scale = 0.031f, .zero_point = -17},
      {.values = Values::kInteger,
       .is_signed = false,
       .by_reciprocal = true,
       .scale = 0.02f,
       .zero_point = 128},
      {.values = Values::kE4M3, .scale = 0.011f},
      {.values = Values::kE5M2, .by_reciprocal = true, .scale = 0.0001f},
      {.values = Values::kInteger, .dynamic = true},
      {.values = Values::kInteger, .dynamic = true, .symmetric = false},
      {.values = Values::kE4M3, .dynamic = true, .group = 40},  // the last one is shorter
      {.values = Values::kE2M1, .dynamic = true, .group = 16, .global_scale = 300},
      {.values = Values::kE4M3, .dynamic = true, .upper_bound = 1.5f, .least_scale = 1e-5f}};
  for (size_t i = 0; i < std::size(roundings); ++i) {
    SCOPED_TRACE(i);
    std::vector<QuantizedTensor> parts = {FourBit(kRows, kCols, 1), FourBit(kRows, kCols, 2)};
    const Linear plain = Load(parts, Compute::kExact);
    parts[0].input.rounding = roundings[i];
    EXPECT_FALSE(Load(parts, Compute::kExact).rounds_inputs());
    const Linear one = Load(parts, Compute::kExact, true);
    parts[1].input.rounding = roundings[i];
    const Linear both = Load(parts, Compute::kExact, true);
    EXPECT_TRUE(both.rounds_inputs());
    EXPECT_EQ(one.pieces(), 2);
    EXPECT_EQ(both.pieces(), 1);
    for (const int64_t tokens : {1, 21}) {
      const std::vector<float> x = RandomFloats(tokens * kCols, 11);
      std::vector<float> rounded = x;
      for (int64_t t = 0; t < tokens; ++t) {
        RoundInputs(roundings[i], x.data() + t * kCols, kCols, rounded.data() + t * kCols);
      }
      EXPECT_NE(rounded, x);
      const std::vector<float> expected = Run(plain, rounded, kCols, 2 * kRows);
      const std::vector<float> unrounded = Run(plain, x, kCols, 2 * kRows);
      const std::vector<float> y = Run(both, x, kCols, 2 * kRows);
      const std::vector<float> half = Run(one, x, kCols, 2 * kRows);
      // OpenCL divides to 2.5 units in the last place.
      const float tolerance = GetParam() == "cpu" ? 0.0f : 1e-4f;
      for (int64_t k = 0; k < tokens * 2 * kRows; ++k) {
        ASSERT_NEAR(y[k], expected[k], tolerance) << k;
        const bool first = k % (2 * kRows) < kRows;
        ASSERT_NEAR(half[k], first ? expected[k] : unrounded[k], tolerance) << k;
      }
    }
  }
}

// In exact compute too, the weights then stay rotated.
TEST_P(InputStepsOf, InputsAreRoundedAfterARotation) {
  using Scale = Fp4Blocks::Scale;
  constexpr int64_t kCols = 96, kRows = 32, kSize = 32;
  const Fp4Blocks blocks[] = {{Scale::kE4M3OfMax, 3, true},        {Scale::kE4M3OfMax, 0.7f, false},
                              {Scale::kPowerOfMax, 3, true},       {Scale::kPowerOfMax, 3, false},
                              {Scale::kPowerOfDeviation, 1, true}, {Scale::kPowerOfDeviation, 1}};
  const std::vector<float> rotation = RandomFloats(kSize * kSize, 12, 0.2f);
  for (size_t i = 0; i < std::size(blocks); ++i) {
    SCOPED_TRACE(i);
    std::vector<QuantizedTensor> parts = {FourBit(kRows, kCols, 1)};
    const Linear plain = Load(parts, Compute::kExact);
    InputTransform& input = parts[0].input;
    input.hadamard_size = kSize;
    input.rotation = rotation;
    input.rounding = {.values = InputRounding::Values::kE2M1, .dynamic = true, .fp4 = blocks[i]};
    ASSERT_TRUE(Validate(parts[0]).ok());
    const Linear rounds = Load(parts, Compute::kExact, true);
    EXPECT_TRUE(rounds.rounds_inputs());
    for (const int64_t tokens : {1, 21}) {
      std::vector<float> x = RandomFloats(tokens * kCols, 11), rotated(x.size());
      std::fill_n(x.begin(), 16, 0.0f);
      MultiplyByMatrix(x.data(), tokens * kCols, rotation.data(), kSize, rotated.data());
      std::vector<float> rounded(x.size());
      for (int64_t t = 0; t < tokens; ++t) {
        RoundInputs(input.rounding, &rotated[t * kCols], kCols, &rounded[t * kCols]);
      }
      const std::vector<float> expected = Run(plain, rounded, kCols, kRows);
      const std::vector<float> y = Run(rounds, x, kCols, kRows);
      const float tolerance = GetParam() == "cpu" ? 0.0f : 1e-4f;
      for (size_t k = 0; k < y.size(); ++k) ASSERT_NEAR(y[k], expected[k], tolerance) << k;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, InputStepsOf, testing::Values("cpu", "opencl"));

}  // namespace
}  // namespace quantd

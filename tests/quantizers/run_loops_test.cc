// The loops of rounding to the nearest: every instruction set against the plain loops bit by bit,
// and those against what they are said to do.
#include "quantizers/solvers/run_loops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/float_types.h"

namespace quantd {
namespace {

using Codes = std::vector<uint8_t>;

// Weights of either sign, ties of a grid of eighths among them, zeros of both signs, and what is
// far outside or has hardly a place in float32.
std::vector<float> Weights(int64_t n) {
  std::mt19937 random(static_cast<uint32_t>(n));
  std::normal_distribution<float> normal(0, 0.5f);
  std::vector<float> values(static_cast<size_t>(n));
  for (size_t i = 0; i < values.size(); ++i) {
    switch (random() % 8) {
      case 0:
        values[i] = static_cast<float>(static_cast<int>(random() % 65) - 32) / 16;
        break;
      case 1:
        values[i] = random() % 2 != 0 ? 0.0f : -0.0f;
        break;
      case 2:
        values[i] = std::ldexp(normal(random), static_cast<int>(random() % 200) - 100);
        break;
      default:
        values[i] = normal(random);
    }
  }
  return values;
}

constexpr int64_t kLengths[] = {1, 7, 16, 31, 32, 64, 77, 128, 576};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr DTypeRunLoops::Encode DTypeRunLoops::*kEncodings[] = {
    &DTypeRunLoops::divided,          &DTypeRunLoops::divided_with_zero,
    &DTypeRunLoops::divided_e2m1,     &DTypeRunLoops::divided_e2m3,
    &DTypeRunLoops::divided_e4m3,     &DTypeRunLoops::multiplied,
    &DTypeRunLoops::above_zero,       &DTypeRunLoops::divided_or_0,
    &DTypeRunLoops::divided_e4m3_or_0};

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(Bits(value));
  return bits;
}

// What `run` makes of the codes of `values`.
template <class Run>
Codes CodesOf(const std::vector<float>& values, const Run& run) {
  Codes codes(values.size(), 0xaa);
  run(values.data(), static_cast<int64_t>(values.size()), codes.data());
  return codes;
}

void ExpectSame(const RunLoops& found, const RunLoops& expected, const std::vector<float>& values) {
  const auto n = static_cast<int64_t>(values.size());
  for (const auto range : {&RunLoops::range, &RunLoops::least_and_greatest}) {
    const Range a = (found.*range)(values.data(), n), b = (expected.*range)(values.data(), n);
    EXPECT_EQ(Bits(a.min), Bits(b.min));
    EXPECT_EQ(Bits(a.max), Bits(b.max));
  }
  std::vector<float> half = values, expected_half = values;
  found.saturate_float16(half.data(), n);
  expected.saturate_float16(expected_half.data(), n);
  EXPECT_EQ(Bits(half), Bits(expected_half));
  for (const FourBitTable* table : {&Nf4Table(), &Fp4Table()}) {
    const auto encode = [&](const RunLoops& loops) {
      return CodesOf(values, [&](const float* v, int64_t count, uint8_t* codes) {
        loops.four_bit(*table, v, count, 0.7f, codes);
      });
    };
    EXPECT_EQ(encode(found), encode(expected));
  }
  for (const auto encode : {&RunLoops::int8_away, &RunLoops::multiplied_e4m3}) {
    const auto with = [&](const RunLoops& loops) {
      return CodesOf(values, [&](const float* v, int64_t count, uint8_t* codes) {
        (loops.*encode)(v, count, 0.0625f, codes);
      });
    };
    EXPECT_EQ(with(found), with(expected));
  }
  const std::vector<float> other(values.size(), 0.25f);
  const SquareSums a = found.squares(values.data(), other.data(), n);
  const SquareSums b = expected.squares(values.data(), other.data(), n);
  EXPECT_EQ(a.difference, b.difference);
  EXPECT_EQ(a.values, b.values);
}

TEST(RunLoops, GiveTheSameBits) {
  const RunLoops* const* all = AllRunLoops();
  for (const RunLoops* const* loops = all; *loops != nullptr; ++loops) {
    for (const int64_t n : kLengths) {
      const std::vector<float> values = Weights(n);
      SCOPED_TRACE(testing::Message() << (*loops)->isa << " " << n);
      ExpectSame(**loops, *all[0], values);
      for (const DType dtype : kDTypes) {
        for (const auto encoding : kEncodings) {
          for (const float scale : {0.125f, 0.0371f, 1e-30f, 0.0f}) {
            for (const Rounding& rounding :
                 {Rounding{3, -8, 7, -8}, {0, -128, 127, -128}, {-0.4f, 0, 15, 0}}) {
              const auto with = [&](const RunLoops& one) {
                return CodesOf(values, [&](const float* v, int64_t count, uint8_t* codes) {
                  (one.In(dtype).*encoding)(v, count, scale, rounding, codes);
                });
              };
              // 0/0 is for those that say what becomes of it.
              const bool takes_0 = encoding == &DTypeRunLoops::above_zero ||
                                   encoding == &DTypeRunLoops::divided_or_0 ||
                                   encoding == &DTypeRunLoops::divided_e4m3_or_0 ||
                                   encoding == &DTypeRunLoops::multiplied;
              if (scale == 0 && !takes_0) continue;
              EXPECT_EQ(with(**loops), with(*all[0])) << InfoOf(dtype).torch_name << " " << scale;
            }
          }
        }
      }
    }
  }
}

TEST(RunLoops, RangesHoldZeroAndKeepTheSignOfZeros) {
  const RunLoops& loops = BestRunLoops();
  std::vector<float> values(100, 3.0f);
  values[40] = 5.0f;
  EXPECT_EQ(loops.range(values.data(), 100).min, 0.0f);
  EXPECT_EQ(loops.range(values.data(), 100).max, 5.0f);
  EXPECT_EQ(loops.least_and_greatest(values.data(), 100).min, 3.0f);
  values[70] = -0.0f;
  values[71] = 0.0f;
  EXPECT_TRUE(std::signbit(loops.least_and_greatest(values.data(), 100).min));
  EXPECT_FALSE(std::signbit(loops.range(values.data(), 100).min));
}

TEST(RunLoops, RoundAsTheySay) {
  const RunLoops& loops = BestRunLoops();
  const DTypeRunLoops& plain = loops.In(DType::kF32);
  const auto codes_of = [](const std::vector<float>& values, DTypeRunLoops::Encode encode,
                           float scale, const Rounding& rounding) {
    return CodesOf(values, [&](const float* v, int64_t count, uint8_t* codes) {
      encode(v, count, scale, rounding, codes);
    });
  };
  EXPECT_EQ(codes_of({0.25f, 0.75f, -0.25f, 9, -9}, plain.divided, 0.5f, {0, -8, 7, -8}),
            (Codes{8, 10, 8, 15, 0}));
  EXPECT_EQ(codes_of({0.25f, 1, -9}, plain.divided_with_zero, 0.5f, {2, -8, 7, -8}),
            (Codes{10, 12, 0}));
  EXPECT_EQ(codes_of({0.25f, 0.75f, 100}, plain.multiplied, 2, {1, -8, 7, -8}), (Codes{9, 11, 15}));
  EXPECT_EQ(codes_of({1, 2, 30}, plain.above_zero, 0.5f, {1, 0, 15, 0}), (Codes{0, 2, 15}));
  EXPECT_EQ(codes_of({1, 1}, plain.above_zero, 0, {1, 0, 15, 0}), (Codes{0, 0}));
  EXPECT_EQ(codes_of({0, 1}, plain.divided_or_0, 0, {0, -128, 127, -128}), (Codes{128, 255}));
  EXPECT_EQ(codes_of({448, -1, 0}, plain.divided_e4m3, 1, {}), (Codes{0x7e, 0xb8, 0}));
  EXPECT_EQ(codes_of({0, 1}, plain.divided_e4m3_or_0, 0, {}), (Codes{0, 0x7e}));
  // 1.00390625 is halfway between two bfloat16 numbers; in float32 it is nearer to 2 than to 1.
  EXPECT_EQ(codes_of({1.50390625f}, plain.divided, 1, {0, -8, 7, -8}), (Codes{10}));
  EXPECT_EQ(codes_of({2.50390625f}, loops.In(DType::kBF16).divided, 1, {0, -8, 7, -8}),
            (Codes{10}));
  const std::vector<float> away = {0.5f, -0.5f, 1.5f, 127.5f, -200};
  EXPECT_EQ(
      CodesOf(away, [&](const float* v, int64_t n, uint8_t* c) { loops.int8_away(v, n, 1, c); }),
      (Codes{129, 127, 130, 255, 0}));
  std::vector<float> half = {1e6f, -1e6f, 1.00048828125f, std::numeric_limits<float>::infinity()};
  loops.saturate_float16(half.data(), 4);
  EXPECT_EQ(half, (std::vector<float>{65504, -65504, 1, 65504}));
}

TEST(RunLoops, FourBitCodesAreThoseOfTheNearestValues) {
  for (const FourBitTable* table : {&Nf4Table(), &Fp4Table()}) {
    std::vector<float> values(table->values.begin(), table->values.end());
    values.insert(values.end(), {-2, 2});
    const Codes codes = CodesOf(values, [&](const float* v, int64_t n, uint8_t* c) {
      BestRunLoops().four_bit(*table, v, n, 1, c);
    });
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(table->values[codes[i]], values[i]) << i;
    EXPECT_EQ(table->values[codes[16]], -1);
    EXPECT_EQ(table->values[codes[17]], 1);
  }
}

}  // namespace
}  // namespace quantd

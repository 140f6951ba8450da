// The loops of GGUF's legacy blocks: every instruction set against the plain loops bit by bit.
#include "quantizers/codecs/gguf/legacy_loops.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace quantd::gguf {
namespace {

constexpr int kBlock = 32;

// Blocks of normal weights, of zeros of both signs, with extremes of both signs, of ties, and so
// small that the inverse of their scale overflows.
std::vector<float> Blocks(int64_t blocks) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::vector<float> x(static_cast<size_t>(blocks * kBlock));
  for (int64_t b = 0; b < blocks; ++b) {
    float* block = x.data() + b * kBlock;
    for (int i = 0; i < kBlock; ++i) block[i] = normal(random);
    const int kind = static_cast<int>(b % 6);
    for (int i = 0; i < kBlock; ++i) {
      if (kind == 1) block[i] = random() % 2 != 0 ? 0.0f : -0.0f;
      if (kind == 3) block[i] = static_cast<float>(static_cast<int>(random() % 17) - 8) / 2;
      if (kind == 4) block[i] *= 1e-38f;
      if (kind == 5) block[i] = std::fabs(block[i]);
    }
    if (kind == 2) {
      block[7] = b % 12 == 2 ? 1.0f : -1.0f;
      block[20] = -block[7];
    }
    if (kind == 5) block[3] = b % 12 == 5 ? -0.0f : 0.0f;
  }
  return x;
}

std::vector<uint32_t> Bits(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<uint32_t>(value));
  return bits;
}

TEST(LegacyLoops, GiveTheSameBits) {
  constexpr int64_t kBlocks = 120;
  const std::vector<float> x = Blocks(kBlocks);
  const LegacyLoops* const* all = AllLegacyLoops();
  for (const LegacyLoops* const* loops = all; *loops != nullptr; ++loops) {
    for (const auto type : {&LegacyLoops::q4_0, &LegacyLoops::q5_0, &LegacyLoops::q8_0}) {
      std::vector<float> scale(kBlocks), expected_scale(kBlocks);
      std::vector<uint8_t> codes(x.size()), expected(x.size());
      ((*loops)->*type)(x.data(), kBlocks, scale.data(), codes.data());
      (all[0]->*type)(x.data(), kBlocks, expected_scale.data(), expected.data());
      EXPECT_EQ(codes, expected) << (*loops)->isa;
      EXPECT_EQ(Bits(scale), Bits(expected_scale)) << (*loops)->isa;
    }
    for (const auto type : {&LegacyLoops::q4_1, &LegacyLoops::q5_1}) {
      std::vector<float> scale(kBlocks), expected_scale(kBlocks), offset(kBlocks),
          expected_offset(kBlocks);
      std::vector<uint8_t> codes(x.size()), expected(x.size());
      ((*loops)->*type)(x.data(), kBlocks, scale.data(), offset.data(), codes.data());
      (all[0]->*type)(x.data(), kBlocks, expected_scale.data(), expected_offset.data(),
                      expected.data());
      EXPECT_EQ(codes, expected) << (*loops)->isa;
      EXPECT_EQ(Bits(scale), Bits(expected_scale)) << (*loops)->isa;
      EXPECT_EQ(Bits(offset), Bits(expected_offset)) << (*loops)->isa;
    }
  }
}

// The scale has the sign of the first element of the largest magnitude, and zeros keep theirs.
TEST(LegacyLoops, SignsComeFromTheFirst) {
  std::vector<float> x(kBlock, 0.5f);
  float scale = 0, offset = 0;
  std::vector<uint8_t> codes(kBlock);
  x[3] = -2;
  x[9] = 2;
  BestLegacyLoops().q4_0(x.data(), 1, &scale, codes.data());
  EXPECT_EQ(scale, 0.25f);
  std::swap(x[3], x[9]);
  BestLegacyLoops().q4_0(x.data(), 1, &scale, codes.data());
  EXPECT_EQ(scale, -0.25f);
  x[3] = x[9] = 1;
  x[20] = -0.0f;
  x[21] = 0.0f;
  BestLegacyLoops().q4_1(x.data(), 1, &scale, &offset, codes.data());
  EXPECT_TRUE(offset == 0 && std::signbit(offset));
}

}  // namespace
}  // namespace quantd::gguf

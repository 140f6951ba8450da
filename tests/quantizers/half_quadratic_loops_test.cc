// The loops of half-quadratic quantization in every instruction set against the plain ones, bit by
// bit, and sums in parts against whole ones.
#include "quantizers/solvers/half_quadratic_loops.h"

#include <gtest/gtest.h>

#include <vector>

#include "quantizers/solvers/torch_sum.h"
#include "tests/random_floats.h"

namespace quantd {
namespace {

TEST(HalfQuadraticLoops, GiveTheSameBits) {
  constexpr int64_t kGroups = 5;
  const HalfQuadraticLoops* const* all = AllHalfQuadraticLoops();
  for (const HalfQuadraticLoops* const* loops = all; *loops != nullptr; ++loops) {
    for (const int64_t size : {8, 24, 64, 72, 576, 1031}) {
      // The wider ones leave residuals that shrink to something.
      for (const float spread : {0.02f, 1.0f}) {
        SCOPED_TRACE(testing::Message() << (*loops)->isa << " " << size << " " << spread);
        const std::vector<float> weights = RandomFloats(kGroups * size, 1, spread);
        const std::vector<float> scales(kGroups * size, 2 / spread);
        const std::vector<float> starts = RandomFloats(kGroups * size, 2, 4);
        std::vector<float> errors(weights.size()), expected_errors(weights.size());
        std::vector<float> scratch(size), zeros = starts, expected_zeros = starts;
        (*loops)->step(weights.data(), kGroups, size, scales.data(), 15, zeros.data(),
                       errors.data(), scratch.data());
        all[0]->step(weights.data(), kGroups, size, scales.data(), 15, expected_zeros.data(),
                     expected_errors.data(), scratch.data());
        EXPECT_EQ(zeros, expected_zeros);
        EXPECT_EQ(errors, expected_errors);
        std::vector<float> wishes(weights.size()), expected_wishes(weights.size());
        const auto n = static_cast<int64_t>(weights.size());
        (*loops)->step_each(weights.data(), n, scales.data(), starts.data(), 15, wishes.data(),
                            errors.data());
        all[0]->step_each(weights.data(), n, scales.data(), starts.data(), 15,
                          expected_wishes.data(), expected_errors.data());
        EXPECT_EQ(wishes, expected_wishes);
        EXPECT_EQ(errors, expected_errors);
        std::vector<uint8_t> codes(weights.size()), expected(weights.size());
        (*loops)->codes(weights.data(), n, scales[0], 7.3f, 15, codes.data());
        all[0]->codes(weights.data(), n, scales[0], 7.3f, 15, expected.data());
        EXPECT_EQ(codes, expected);
        (*loops)->codes_each(weights.data(), n, scales.data(), starts.data(), 15, codes.data());
        all[0]->codes_each(weights.data(), n, scales.data(), starts.data(), 15, expected.data());
        EXPECT_EQ(codes, expected);
      }
    }
  }
}

// One weight whose residual is large: the zero point is found without its outlier.
TEST(HalfQuadraticLoops, ToleratesOutliers) {
  const std::vector<float> weights = {0, 1, 2, 3, 0, 1, 2, 30};
  const float scale = 1;
  float zero = 0;
  std::vector<float> errors(8), scratch(8);
  BestHalfQuadraticLoops().step(weights.data(), 1, 8, &scale, 15, &zero, errors.data(),
                                scratch.data());
  EXPECT_EQ(errors[7], 15);
  EXPECT_EQ(errors[3], 0);
  // Without shrinking the mean would be -15 / 8.
  EXPECT_LT(zero, 0);
  EXPECT_GT(zero, -0.01f);
}

TEST(TorchSumInParts, GivesTheWholeSum) {
  for (const int64_t count : {1, 7, 8, 31, 33, 8191, 8192, 8200, 100'000, 1'048'577, 33'554'500}) {
    std::vector<float> values(static_cast<size_t>(count));
    uint32_t state = 1;
    for (float& value : values) {
      state = state * 1664525u + 1013904223u;
      value = static_cast<float>(state >> 8) * 0x1p-24f;
    }
    const TorchSumInParts sum(count);
    const int64_t parts = count / sum.part_size();
    std::vector<float> sums(static_cast<size_t>(parts * TorchSumInParts::kSums));
    for (int64_t part = 0; part < parts; ++part) {
      sum.SumPart(&values[part * sum.part_size()], &sums[part * TorchSumInParts::kSums]);
    }
    const std::span<const float> rest = std::span(values).subspan(parts * sum.part_size());
    EXPECT_EQ(sum.Total(sums, rest), TorchSum(values)) << count;
  }
}

}  // namespace
}  // namespace quantd

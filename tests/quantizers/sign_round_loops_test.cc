// SignRound's loops in every instruction set against the plain one, bit by bit.
#include "quantizers/solvers/sign_round_loops.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/random_floats.h"

namespace quantd {
namespace {

TEST(SignRoundLoops, GiveTheSameBits) {
  const SignRoundLoops* const* all = AllSignRoundLoops();
  for (const SignRoundLoops* const* loops = all; *loops != nullptr; ++loops) {
    for (const int64_t n : {1, 15, 32, 64, 71, 576}) {
      for (const GroupRounding& group :
           {GroupRounding{0.02f, 7, 0, 15}, {-0.1f, 0, -4, 3}, {1e-5f, 0, -8, 7}}) {
        SCOPED_TRACE(testing::Message() << (*loops)->isa << " " << n << " " << group.scale);
        const std::vector<float> values = RandomFloats(n, 1, 0.1f),
                                 gradients = RandomFloats(n, 2, 1e-3f),
                                 offsets = RandomFloats(n, 3, 0.3f);
        std::vector<float> found(n), expected(n);
        (*loops)->round(group, values.data(), offsets.data(), n, found.data());
        all[0]->round(group, values.data(), offsets.data(), n, expected.data());
        EXPECT_EQ(found, expected);
        std::vector<float> moved = offsets, expected_moved = offsets;
        const GroupGradient sums =
            (*loops)->step(group, values.data(), 0.02f, n, gradients.data(), moved.data());
        const GroupGradient expected_sums =
            all[0]->step(group, values.data(), 0.02f, n, gradients.data(), expected_moved.data());
        EXPECT_EQ(moved, expected_moved);
        EXPECT_EQ(sums.by_scale, expected_sums.by_scale);
        EXPECT_EQ(sums.by_zero, expected_sums.by_zero);
      }
    }
  }
}

// The offset moves against its gradient where the code may change, and stays where it is clamped.
TEST(SignRoundLoops, StepsAgainstTheSign) {
  const GroupRounding group = {0.5f, 0, -8, 7};
  const float values[] = {1.0f, 1.0f, 1.0f, 100.0f};
  const float gradient[] = {2.0f, -2.0f, 0.0f, 2.0f};
  float rounding[] = {0, 0, 0, 0};
  BestSignRoundLoops().step(group, values, 0.25f, 4, gradient, rounding);
  EXPECT_EQ(std::vector<float>(rounding, rounding + 4), (std::vector<float>{-0.25f, 0.25f, 0, 0}));
}

}  // namespace
}  // namespace quantd

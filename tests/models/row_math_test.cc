// The calibration's row functions in every instruction set against the plain one, bit by bit.
#include "models/calibration/row_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/random_floats.h"

namespace quantd::calibration {
namespace {

// check(loops, baseline, n) for what this processor runs, over lengths around those of registers.
template <class Check>
void ForVariants(const Check& check) {
  const RowLoops* const* all = AllRowLoops();
  for (const RowLoops* const* loops = all; *loops != nullptr; ++loops) {
    for (const int64_t n : {1, 7, 16, 33, 64, 577}) {
      SCOPED_TRACE(testing::Message() << (*loops)->isa << " " << n);
      check(**loops, *all[0], n);
    }
  }
}

TEST(RowMath, ActivationsAreTheSameBits) {
  ForVariants([](const RowLoops& loops, const RowLoops& plain, int64_t n) {
    const std::vector<float> gate = RandomFloats(n, 1, 3), up = RandomFloats(n, 2, 3),
                             d = RandomFloats(n, 3, 3);
    for (int a = 0; a < kRowActivations; ++a) {
      for (const float* factor : {static_cast<const float*>(nullptr), up.data()}) {
        std::vector<float> found(n), expected(n);
        loops.activate[a](gate.data(), factor, n, found.data());
        plain.activate[a](gate.data(), factor, n, expected.data());
        EXPECT_EQ(found, expected);
        std::vector<float> d_gate = d, d_up(n), expected_gate = d, expected_up(n);
        loops.gradient[a](gate.data(), factor, n, d_gate.data(), d_up.data());
        plain.gradient[a](gate.data(), factor, n, expected_gate.data(), expected_up.data());
        EXPECT_EQ(d_gate, expected_gate);
        EXPECT_EQ(d_up, expected_up);
      }
    }
  });
}

TEST(RowMath, NormsAreTheSameBits) {
  ForVariants([](const RowLoops& loops, const RowLoops& plain, int64_t n) {
    const std::vector<float> x = RandomFloats(n, 4, 3), dy = RandomFloats(n, 5, 3),
                             weight = RandomFloats(n, 6, 3), bias = RandomFloats(n, 7, 3);
    for (const bool is_layer_norm : {false, true}) {
      const RowNormArgs norm = {is_layer_norm, weight.data(), is_layer_norm ? bias.data() : nullptr,
                                1e-5f};
      std::vector<float> found(n), expected(n), dx = dy, expected_dx = dy;
      loops.normalize(norm, x.data(), n, found.data());
      plain.normalize(norm, x.data(), n, expected.data());
      EXPECT_EQ(found, expected);
      loops.norm_gradient(norm, x.data(), dy.data(), n, dx.data());
      plain.norm_gradient(norm, x.data(), dy.data(), n, expected_dx.data());
      EXPECT_EQ(dx, expected_dx);
    }
  });
}

TEST(RowMath, SoftmaxIsTheSameBitsAndComesAgain) {
  ForVariants([](const RowLoops& loops, const RowLoops& plain, int64_t n) {
    // Whole vectors, of which the entries behind n become zeros.
    const int64_t whole = (n + kRowLanes - 1) / kRowLanes * kRowLanes;
    std::vector<float> scores = RandomFloats(whole, 8, 30);
    std::fill(scores.begin() + n, scores.end(), 1000.0f);
    std::vector<float> found = scores, expected = scores, again = scores;
    const SoftmaxTerms terms = loops.softmax(0.125f, found.data(), n);
    const SoftmaxTerms plain_terms = plain.softmax(0.125f, expected.data(), n);
    EXPECT_EQ(found, expected);
    EXPECT_EQ(terms.top, plain_terms.top);
    EXPECT_EQ(terms.inverse, plain_terms.inverse);
    loops.softmax_again(0.125f, terms, again.data(), n);
    EXPECT_EQ(again, expected);
    EXPECT_TRUE(std::all_of(found.begin() + n, found.end(), [](float w) { return w == 0; }));
    const float most = *std::max_element(scores.begin(), scores.begin() + n);
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(0.125 * (scores[i] - most));
    for (int64_t i = 0; i < n; ++i) {
      // Exponents of up to 11, rounded to float32 three times, and 2 ulp of the power.
      const double weight = std::exp(0.125 * (scores[i] - most)) / sum;
      EXPECT_NEAR(found[i], weight, 4e-6 * weight);
    }
    std::vector<float> d = RandomFloats(n, 9, 3), expected_d = d;
    loops.score_gradient(0.125f, found.data(), 0.3f, n, d.data());
    plain.score_gradient(0.125f, found.data(), 0.3f, n, expected_d.data());
    EXPECT_EQ(d, expected_d);
    EXPECT_EQ(loops.dot(scores.data(), found.data(), n), plain.dot(scores.data(), found.data(), n));
  });
}

}  // namespace
}  // namespace quantd::calibration

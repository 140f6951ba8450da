// Normal numbers that are the same in every run.
#ifndef QUANTD_TESTS_RANDOM_FLOATS_H_
#define QUANTD_TESTS_RANDOM_FLOATS_H_

#include <cstdint>
#include <random>
#include <vector>

namespace quantd {

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float deviation = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace quantd

#endif  // QUANTD_TESTS_RANDOM_FLOATS_H_

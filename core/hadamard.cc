#include "core/hadamard.h"

#include <cmath>

namespace quantd {

void HadamardTransform(float* values, int64_t size) {
  for (int64_t half = 1; half < size; half *= 2) {
    for (int64_t begin = 0; begin < size; begin += 2 * half) {
      float* low = values + begin;
      float* high = low + half;
      for (int64_t i = 0; i < half; ++i) {
        const float a = low[i], b = high[i];
        low[i] = a + b;
        high[i] = a - b;
      }
    }
  }
}

void RotateByHadamard(float* values, int64_t count, int64_t size) {
  const float norm = 1.0f / std::sqrt(static_cast<float>(size));
  for (int64_t begin = 0; begin + size <= count; begin += size) {
    HadamardTransform(values + begin, size);
    for (int64_t i = 0; i < size; ++i) values[begin + i] *= norm;
  }
}

}  // namespace quantd

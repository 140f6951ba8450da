#include "core/hadamard.h"

#include <algorithm>
#include <bit>
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

std::optional<float> HadamardFactor(std::span<const float> matrix, int64_t size) {
  if (matrix.empty() || matrix[0] == 0) return std::nullopt;
  for (int64_t row = 0; row < size; ++row) {
    for (int64_t column = 0; column < size; ++column) {
      const bool odd = std::popcount(static_cast<uint64_t>(row & column)) % 2 == 1;
      if (matrix[row * size + column] != (odd ? -matrix[0] : matrix[0])) return std::nullopt;
    }
  }
  return matrix[0];
}

void MultiplyByMatrix(const float* from, int64_t count, const float* matrix, int64_t size,
                      float* to) {
  for (int64_t begin = 0; begin + size <= count; begin += size) {
    float* sums = to + begin;
    std::fill_n(sums, size, 0.0f);
    for (int64_t i = 0; i < size; ++i) {
      const float x = from[begin + i];
      const float* row = matrix + i * size;
      for (int64_t j = 0; j < size; ++j) sums[j] += x * row[j];
    }
  }
}

void MultiplyByTransposed(const float* from, int64_t count, const float* matrix, int64_t size,
                          float* to) {
  for (int64_t begin = 0; begin + size <= count; begin += size) {
    for (int64_t i = 0; i < size; ++i) {
      float sum = 0;
      for (int64_t j = 0; j < size; ++j) sum += from[begin + j] * matrix[i * size + j];
      to[begin + i] = sum;
    }
  }
}

}  // namespace quantd

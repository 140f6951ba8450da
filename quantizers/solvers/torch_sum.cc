#include "quantizers/solvers/torch_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace quantd {
namespace {

constexpr int kLanes = 8;     // of torch's vectors
constexpr int kLevels = 4;    // of partial sums, each over sums of the level below
constexpr int kParallel = 4;  // independent accumulators

// `Lanes` neighbouring elements that are added as one vector.
template <int Lanes>
struct Vector {
  std::array<float, Lanes> lane{};
  void Add(const float* values) {
    for (int i = 0; i < Lanes; ++i) lane[i] += values[i];
  }
  void Add(const Vector& other) { Add(other.lane.data()); }
};

int CeilLog2(int64_t value) {
  return value <= 2 ? 1 : 64 - std::countl_zero(static_cast<uint64_t>(value - 1));
}

// Distances between elements, in floats.
struct Strides {
  int64_t row;
  int64_t column;
};

// Column sums of values[size][kParallel] vectors, cascading over chunks of 2^power rows.
template <int Lanes>
std::array<Vector<Lanes>, kParallel> SumColumns(const float* values, int64_t size,
                                                Strides strides) {
  const int power = std::max(4, CeilLog2(size) / kLevels);
  const int64_t step = int64_t{1} << power;
  std::array<std::array<Vector<Lanes>, kParallel>, kLevels> sums{};
  const auto add_row = [&](int64_t row) {
    for (int k = 0; k < kParallel; ++k) {
      sums[0][k].Add(values + row * strides.row + k * strides.column);
    }
  };
  int64_t row = 0;
  while (row + step <= size) {
    for (const int64_t end = row + step; row < end; ++row) add_row(row);
    for (int level = 1; level < kLevels; ++level) {
      for (int k = 0; k < kParallel; ++k) {
        sums[level][k].Add(sums[level - 1][k]);
        sums[level - 1][k] = {};
      }
      if ((row & ((step - 1) << (level * power))) != 0) break;
    }
  }
  for (; row < size; ++row) add_row(row);
  for (int level = 1; level < kLevels; ++level) {
    for (int k = 0; k < kParallel; ++k) sums[0][k].Add(sums[level][k]);
  }
  return sums[0];
}

// Sum of `count` vectors that lie `stride` floats apart.
template <int Lanes>
Vector<Lanes> SumVectors(const float* values, int64_t count, int64_t stride) {
  const int64_t rows = count / kParallel;
  auto sums = SumColumns<Lanes>(values, rows, {kParallel * stride, stride});
  for (int64_t i = rows * kParallel; i < count; ++i) sums[0].Add(values + i * stride);
  for (int k = 1; k < kParallel; ++k) sums[0].Add(sums[k]);
  return sums[0];
}

}  // namespace

float TorchSum(std::span<const float> values) {
  const int64_t size = static_cast<int64_t>(values.size());
  if (size < kLanes) return SumVectors<1>(values.data(), size, 1).lane[0];
  const int64_t vectors = size / kLanes;
  const Vector<kLanes> partial = SumVectors<kLanes>(values.data(), vectors, kLanes);
  float sum = 0;
  for (int64_t i = vectors * kLanes; i < size; ++i) sum += values[i];
  for (const float lane : partial.lane) sum += lane;
  return sum;
}

float TorchMean(std::span<const float> values) {
  return TorchSum(values) / static_cast<float>(values.size());
}

float TorchNorm(std::span<const float> values) {
  Vector<kLanes> sums;
  size_t i = 0;
  for (; i + kLanes <= values.size(); i += kLanes) {
    for (int k = 0; k < kLanes; ++k) sums.lane[k] += values[i + k] * values[i + k];
  }
  float sum = sums.lane[0];
  for (int k = 1; k < kLanes; ++k) sum += sums.lane[k];
  for (; i < values.size(); ++i) sum += values[i] * values[i];
  return std::sqrt(sum);
}

void TorchColumnMeans(const float* values, int64_t rows, int64_t cols, float* means) {
  if (cols == 1) {
    means[0] = TorchMean({values, static_cast<size_t>(rows)});
    return;
  }
  const auto store = [means, divisor = static_cast<float>(rows)](int64_t column, const auto& sum) {
    for (size_t i = 0; i < sum.lane.size(); ++i) means[column + i] = sum.lane[i] / divisor;
  };
  int64_t c = 0;
  // Matrices narrower than a vector are summed four columns at a time.
  if (cols < kLanes && cols >= kParallel) {
    for (const Vector<1>& sum : SumColumns<1>(values, rows, {cols, 1})) store(c++, sum);
  }
  for (; c + kParallel * kLanes <= cols; c += kParallel * kLanes) {
    const auto sums = SumColumns<kLanes>(values + c, rows, {cols, kLanes});
    for (int k = 0; k < kParallel; ++k) store(c + k * kLanes, sums[k]);
  }
  for (; c + kLanes <= cols; c += kLanes) store(c, SumVectors<kLanes>(values + c, rows, cols));
  for (; c < cols; ++c) store(c, SumVectors<1>(values + c, rows, cols));
}

}  // namespace quantd

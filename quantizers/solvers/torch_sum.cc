#include "quantizers/solvers/torch_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace quantd {
namespace {

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

// Column sums of values[size][kParallel] vectors, cascading over chunks of 2^power rows.
template <int Lanes>
std::array<Vector<Lanes>, kParallel> SumColumns(const float* values, int64_t size) {
  const int power = std::max(4, CeilLog2(size) / kLevels);
  const int64_t step = int64_t{1} << power;
  std::array<std::array<Vector<Lanes>, kParallel>, kLevels> sums{};
  const auto add_row = [&](int64_t row) {
    for (int k = 0; k < kParallel; ++k) {
      sums[0][k].Add(values + (row * kParallel + k) * Lanes);
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

// Sum of `count` vectors.
template <int Lanes>
Vector<Lanes> SumVectors(const float* values, int64_t count) {
  const int64_t rows = count / kParallel;
  auto sums = SumColumns<Lanes>(values, rows);
  for (int64_t i = rows * kParallel; i < count; ++i) sums[0].Add(values + i * Lanes);
  for (int k = 1; k < kParallel; ++k) sums[0].Add(sums[k]);
  return sums[0];
}

}  // namespace

float TorchSum(std::span<const float> values) {
  constexpr int kLanes = 8;
  const int64_t size = static_cast<int64_t>(values.size());
  if (size < kLanes) return SumVectors<1>(values.data(), size).lane[0];
  const int64_t vectors = size / kLanes;
  const Vector<kLanes> partial = SumVectors<kLanes>(values.data(), vectors);
  float sum = 0;
  for (int64_t i = vectors * kLanes; i < size; ++i) sum += values[i];
  for (const float lane : partial.lane) sum += lane;
  return sum;
}

float TorchMean(std::span<const float> values) {
  return TorchSum(values) / static_cast<float>(values.size());
}

}  // namespace quantd

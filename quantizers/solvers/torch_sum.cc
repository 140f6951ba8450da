#include "quantizers/solvers/torch_sum.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

namespace quantd {
namespace {

#include "quantizers/solvers/torch_sum.inc"

}  // namespace

float TorchSum(std::span<const float> values) {
  return SumOf(values.data(), static_cast<int64_t>(values.size()));
}

float TorchMean(std::span<const float> values) {
  return TorchSum(values) / static_cast<float>(values.size());
}

float TorchNorm(std::span<const float> values) {
  Vector<kTorchLanes> sums;
  size_t i = 0;
  for (; i + kTorchLanes <= values.size(); i += kTorchLanes) {
    for (int k = 0; k < kTorchLanes; ++k) sums.lane[k] += values[i + k] * values[i + k];
  }
  float sum = sums.lane[0];
  for (int k = 1; k < kTorchLanes; ++k) sum += sums.lane[k];
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
  if (cols < kTorchLanes && cols >= kTorchParallel) {
    for (const Vector<1>& sum : SumColumns<1>(values, rows, {cols, 1})) store(c++, sum);
  }
  for (; c + kTorchParallel * kTorchLanes <= cols; c += kTorchParallel * kTorchLanes) {
    const auto sums = SumColumns<kTorchLanes>(values + c, rows, {cols, kTorchLanes});
    for (int k = 0; k < kTorchParallel; ++k) store(c + k * kTorchLanes, sums[k]);
  }
  for (; c + kTorchLanes <= cols; c += kTorchLanes)
    store(c, SumVectors<kTorchLanes>(values + c, rows, cols));
  for (; c < cols; ++c) store(c, SumVectors<1>(values + c, rows, cols));
}

TorchSumInParts::TorchSumInParts(int64_t count)
    : count_(count), part_rows_(int64_t{1} << 2 * Cascade<kTorchLanes>::PowerOf(count / kSums)) {}

void TorchSumInParts::SumPart(const float* values, float* sums) const {
  Cascade<kTorchLanes> cascade(count_ / kSums);
  cascade.AddRows(values, part_rows_, {kSums, kTorchLanes});
  for (const auto& lanes : cascade.second_level()) {
    sums = std::copy(lanes.lane.begin(), lanes.lane.end(), sums);
  }
}

float TorchSumInParts::Total(std::span<const float> sums, std::span<const float> rest) const {
  if (count_ < kSums) return TorchSum(rest);
  Cascade<kTorchLanes> cascade(count_ / kSums);
  for (size_t part = 0; part < sums.size(); part += kSums) cascade.AddPart(&sums[part]);
  const auto size = static_cast<int64_t>(rest.size());
  const int64_t rows = size / kSums, vectors = size % kSums / kTorchLanes;
  cascade.AddRows(rest.data(), rows, {kSums, kTorchLanes});
  const float* behind = rest.data() + rows * kSums;
  return AddLanes(behind + vectors * kTorchLanes, size % kTorchLanes,
                  AddRest(cascade.Total(), behind, vectors, kTorchLanes));
}

}  // namespace quantd

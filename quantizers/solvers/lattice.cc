#include "quantizers/solvers/lattice.h"

#include <limits>

namespace quantd {

Lattice::Lattice(std::span<const uint16_t> points, int size, int bits, int levels, int shells)
    : points_(points),
      size_(size),
      bits_(bits),
      levels_(levels),
      spans_(size_t{1} << (size * bits)) {
  std::vector<bool> is_point(spans_.size());
  for (const uint16_t point : points) is_point[point] = true;
  // Counts through the combinations as through numbers of `size` digits.
  uint32_t digits[kMaxSize] = {};
  for (int i = 0; i < size;) {
    uint32_t packed = 0;
    for (int k = 0; k < size; ++k) packed |= digits[k] << (k * bits);
    if (!is_point[packed]) FindNeighbours(packed, shells);
    for (i = 0; i < size && ++digits[i] == static_cast<uint32_t>(levels); ++i) digits[i] = 0;
  }
}

void Lattice::FindNeighbours(uint32_t packed, int shells) {
  constexpr int kDistances = kMaxSize * 49 + 1;  // levels differ by 7 at most
  std::vector<int> distances(points_.size());
  std::vector<bool> occurs(kDistances);
  for (size_t p = 0; p < points_.size(); ++p) {
    int sum = 0;
    for (int i = 0; i < size_; ++i) {
      const int diff =
          static_cast<int>(LevelOf(points_[p], i)) - static_cast<int>(LevelOf(packed, i));
      sum += diff * diff;
    }
    distances[p] = sum;
    occurs[sum] = true;
  }
  Span& span = spans_[packed];
  span.begin = static_cast<uint32_t>(neighbours_.size());
  for (int d = 0, found = 0; d < kDistances && found < shells; ++d) {
    if (!occurs[d]) continue;
    ++found;
    for (size_t p = 0; p < points_.size(); ++p) {
      if (distances[p] != d) continue;
      Neighbour neighbour = {};
      for (int i = 0; i < size_; ++i) {
        neighbour.place[i] = static_cast<uint8_t>(LevelOf(points_[p], i) + 8 * i);
      }
      neighbours_.push_back(neighbour);
    }
  }
  span.count = static_cast<uint32_t>(neighbours_.size()) - span.begin;
}

uint32_t Lattice::Nearest(uint32_t packed, const float* x, const float* weights, float scale,
                          const float* values) const {
  float cost[8 * kMaxSize];  // of level l at element i: [l + 8 i]
  for (int i = 0; i < size_; ++i) {
    for (int l = 0; l < levels_; ++l) {
      const float diff = scale * values[l] - x[i];
      cost[8 * i + l] = weights[i] * diff * diff;
    }
  }
  const Span span = spans_[packed];
  const Neighbour* best = &neighbours_[span.begin];
  float least = std::numeric_limits<float>::max();
  for (uint32_t n = span.begin; n < span.begin + span.count; ++n) {
    const uint8_t* place = neighbours_[n].place;
    float sum = cost[place[0]];
    for (int i = 1; i < 4; ++i) sum += cost[place[i]];
    for (int i = 4; i < size_; ++i) sum += cost[place[i]];
    if (!(sum < least)) continue;
    least = sum;
    best = &neighbours_[n];
  }
  uint32_t point = 0;
  for (int i = 0; i < size_; ++i) {
    point |= static_cast<uint32_t>(best->place[i] - 8 * i) << (i * bits_);
  }
  return point;
}

}  // namespace quantd

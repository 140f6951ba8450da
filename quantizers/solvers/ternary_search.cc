#include "quantizers/solvers/ternary_search.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace quantd {
namespace {

constexpr float kPositive[3] = {-1 + kTernaryShift, kTernaryShift, 1 + kTernaryShift};
constexpr float kNegative[3] = {-1 - kTernaryShift, -kTernaryShift, 1 - kTernaryShift};

// Three runs of the sorted elements: [0, first), [first, second) and the rest.
struct Split {
  int first = -1;
  int second = -1;
  bool negative[2] = {false, false};
  float scale = 0;
  float score = -std::numeric_limits<float>::max();

  // Takes the split if it explains more.
  void Offer(int i1, int i2, bool negative0, bool negative1, float sum_qx, float sum_q2) {
    if (!(sum_q2 > 0 && sum_qx * sum_qx > score * sum_q2)) return;
    scale = sum_qx / sum_q2;
    score = scale * sum_qx;
    first = i1;
    second = i2;
    negative[0] = negative0;
    negative[1] = negative1;
  }
};

// Positions in ascending order of their elements; equal ones keep their order.
template <int N>
void SortPositions(const float* x, int* order) {
  std::iota(order, order + N, 0);
  std::stable_sort(order, order + N, [x](int a, int b) { return x[a] < x[b]; });
}

// One shift for all: sums over the runs.
template <int N>
Split BestSplit(const float* x, const float* weights, const int* order) {
  float sum_x[N + 1] = {}, sum_w[N + 1] = {};
  for (int j = 0; j < N; ++j) {
    const int i = order[j];
    sum_x[j + 1] = sum_x[j] + weights[i] * x[i];
    sum_w[j + 1] = sum_w[j] + weights[i];
  }
  Split best;
  for (int i1 = 0; i1 <= N; ++i1) {
    for (int i2 = i1; i2 <= N; ++i2) {
      const float x0 = sum_x[i1] - sum_x[0], x1 = sum_x[i2] - sum_x[i1], x2 = sum_x[N] - sum_x[i2];
      const float w0 = sum_w[i1] - sum_w[0], w1 = sum_w[i2] - sum_w[i1], w2 = sum_w[N] - sum_w[i2];
      for (const bool negative : {false, true}) {
        const float* v = ShiftedTrits(negative);
        best.Offer(i1, i2, negative, negative, x0 * v[0] + x1 * v[1] + x2 * v[2],
                   w0 * v[0] * v[0] + w1 * v[1] * v[1] + w2 * v[2] * v[2]);
      }
    }
  }
  return best;
}

// Prefix sums over the sorted elements of one half of the block.
template <int N>
struct HalfSums {
  float x[N + 1] = {};
  float w[N + 1] = {};

  // With values one apart, the sum of w q x is total * last value - prefix - prefix.
  float Qx(bool negative, int i1, int i2) const {
    return x[N] * ShiftedTrits(negative)[2] - (x[i1] + x[i2]);
  }
  float Q2(bool negative, int i1, int i2) const {
    const float* v = ShiftedTrits(negative);
    const float low = v[0] * v[0] - v[1] * v[1];
    const float high = v[1] * v[1] - v[2] * v[2];
    return w[N] * v[2] * v[2] + w[i1] * low + w[i2] * high;
  }
};

// A shift for each half.
template <int N>
Split BestSplitOfHalves(const float* x, const float* weights, const int* order) {
  HalfSums<N> half[2];
  for (int j = 0; j < N; ++j) {
    const int i = order[j];
    const int h = i < N / 2 ? 0 : 1;
    half[h].x[j + 1] = half[h].x[j] + weights[i] * x[i];
    half[h].w[j + 1] = half[h].w[j] + weights[i];
    half[1 - h].x[j + 1] = half[1 - h].x[j];
    half[1 - h].w[j + 1] = half[1 - h].w[j];
  }
  Split best;
  for (int i1 = 0; i1 <= N; ++i1) {
    for (int i2 = i1; i2 <= N; ++i2) {
      float qx[2][2], q2[2][2];  // [half][negative]
      for (int h = 0; h < 2; ++h) {
        for (int negative = 0; negative < 2; ++negative) {
          qx[h][negative] = half[h].Qx(negative != 0, i1, i2);
          q2[h][negative] = half[h].Q2(negative != 0, i1, i2);
        }
      }
      for (int k = 0; k < 4; ++k) {
        best.Offer(i1, i2, k / 2 != 0, k % 2 != 0, qx[0][k / 2] + qx[1][k % 2],
                   q2[0][k / 2] + q2[1][k % 2]);
      }
    }
  }
  return best;
}

// Moves the trits to lattice points, with a new scale if any moved. `points` in and out.
template <int N>
void MoveToPoints(const Lattice& lattice, const float* x, const float* weights, TernaryBlock* block,
                  uint32_t* points) {
  constexpr int kGroups = N / 8;
  bool moved = false;
  for (int k = 0; k < kGroups; ++k) {
    if (lattice.Has(points[k])) continue;
    moved = true;
    points[k] = lattice.Nearest(points[k], x + 8 * k, weights + 8 * k, block->scale,
                                ShiftedTrits(block->negative[2 * k / kGroups]));
  }
  if (!moved) return;
  float sum_qx = 0, sum_q2 = 0;
  for (int i = 0; i < N; ++i) {
    const float* v = ShiftedTrits(block->negative[2 * i / N]);
    const float q = v[lattice.LevelOf(points[i / 8], i)];
    sum_qx += weights[i] * q * x[i];
    sum_q2 += weights[i] * q * q;
  }
  if (sum_qx > 0 && sum_q2 > 0) block->scale = sum_qx / sum_q2;
}

template <int N>
TernaryBlock Search(const Lattice& lattice, float tiny, const float* x, const float* weights,
                    Split (*best_split)(const float*, const float*, const int*), uint8_t* codes) {
  float magnitude = 0;
  for (int i = 0; i < N; ++i) magnitude = std::max(magnitude, std::fabs(x[i]));
  int order[N];
  Split split;
  if (magnitude >= tiny) {
    SortPositions<N>(x, order);
    split = best_split(x, weights, order);
  }
  TernaryBlock block;
  uint32_t points[N / 8];
  std::fill_n(points, N / 8, lattice.point(0));
  if (split.first >= 0) {
    std::fill_n(points, N / 8, 0);
    const bool mirrored = split.scale < 0;
    for (int j = 0; j < N; ++j) {
      const uint32_t trit = j < split.first ? 0 : j < split.second ? 1 : 2;
      points[order[j] / 8] |= (mirrored ? 2 - trit : trit) << (order[j] % 8 * lattice.bits());
    }
    block.scale = std::fabs(split.scale);
    for (int h = 0; h < 2; ++h) block.negative[h] = split.negative[h] != mirrored;
    MoveToPoints<N>(lattice, x, weights, &block, points);
  }
  for (int i = 0; i < N; ++i) {
    codes[i] = static_cast<uint8_t>(lattice.LevelOf(points[i / 8], i) |
                                    (block.negative[2 * i / N] ? 4 : 0));
  }
  return block;
}

}  // namespace

const float* ShiftedTrits(bool negative) { return negative ? kNegative : kPositive; }

TernaryBlock SearchTernary32(const Lattice& lattice, float tiny, const float* x,
                             const float* weights, uint8_t* codes) {
  return Search<32>(lattice, tiny, x, weights, BestSplit<32>, codes);
}

TernaryBlock SearchTernary16(const Lattice& lattice, float tiny, const float* x,
                             const float* weights, uint8_t* codes) {
  return Search<16>(lattice, tiny, x, weights, BestSplitOfHalves<16>, codes);
}

}  // namespace quantd

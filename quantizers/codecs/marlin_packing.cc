#include "quantizers/codecs/marlin_packing.h"

#include <array>

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int kTile = 16;
constexpr int kRun = 1024;  // codes that are permuted together: four tiles
constexpr int kPerWord = 8;

// Which of a run's codes stands at each place: a thread of the warp holds fragments of four rows
// and two columns of each of four tiles, and its eight codes are interleaved for the conversion to
// half precision.
std::array<int, kRun> MakeOrder() {
  constexpr int kInterleaved[kPerWord] = {0, 2, 4, 6, 1, 3, 5, 7};
  std::array<int, kRun> order{};
  int place = 0;
  for (int thread = 0; thread < 32; ++thread) {
    int fragment[kPerWord];
    int filled = 0;
    const int row = 2 * (thread % 4);
    for (const int block : {0, 1}) {
      for (const int r : {row, row + 1, row + 8, row + 9}) {
        fragment[filled++] = kTile * r + thread / 4 + 8 * block;
      }
    }
    for (int tile = 0; tile < 4; ++tile) {
      for (const int k : kInterleaved) order[place++] = fragment[k] + 256 * tile;
    }
  }
  return order;
}

const std::array<int, kRun>& Order() {
  static const std::array<int, kRun> order = MakeOrder();
  return order;
}

// Element of codes [rows, cols] that is number `index` of the tiles in the strip of inputs `strip`.
int64_t Source(int64_t strip, int64_t index, int64_t cols) {
  const int64_t tile = index / (kTile * kTile);
  const int64_t in = strip * kTile + index % (kTile * kTile) / kTile;
  const int64_t out = tile * kTile + index % kTile;
  return out * cols + in;
}

// Place of row `row` of one group: runs of 64 with one group per 128 columns or so, runs of 32
// where the whole row is a group.
std::vector<int> ScaleOrder(bool one_group) {
  std::vector<int> order;
  if (one_group) {
    for (int i = 0; i < 4; ++i) {
      for (const int j : {0, 1, 8, 9, 16, 17, 24, 25}) order.push_back(2 * i + j);
    }
    return order;
  }
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) order.push_back(i + 8 * j);
  }
  return order;
}

// Calls body(stored index, index in [rows, groups]) for every scale.
template <class Body>
void ForEachScale(int64_t rows, int64_t groups, const Body& body) {
  const std::vector<int> order = ScaleOrder(groups == 1);
  const int64_t run = static_cast<int64_t>(order.size());
  for (int64_t i = 0; i < rows * groups; ++i) {
    const int64_t natural = i / run * run + order[static_cast<size_t>(i % run)];
    body(i, natural % rows * groups + natural / rows);
  }
}

}  // namespace

std::vector<uint32_t> PackMarlin(std::span<const uint8_t> codes, int64_t rows, int64_t cols) {
  const std::array<int, kRun>& order = Order();
  const int64_t per_strip = rows * kTile;
  std::vector<uint32_t> words(static_cast<size_t>(rows * cols / kPerWord));
  ParallelFor(cols / kTile, [&](int64_t strip) {
    for (int64_t i = 0; i < per_strip; ++i) {
      const int64_t from = i / kRun * kRun + order[static_cast<size_t>(i % kRun)];
      words[(strip * per_strip + i) / kPerWord] |= uint32_t{codes[Source(strip, from, cols)]}
                                                   << (4 * (i % kPerWord));
    }
  });
  return words;
}

std::vector<uint8_t> UnpackMarlin(std::span<const uint32_t> words, int64_t rows, int64_t cols) {
  const std::array<int, kRun>& order = Order();
  const int64_t per_strip = rows * kTile;
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  ParallelFor(cols / kTile, [&](int64_t strip) {
    for (int64_t i = 0; i < per_strip; ++i) {
      const int64_t to = i / kRun * kRun + order[static_cast<size_t>(i % kRun)];
      const uint32_t word = words[(strip * per_strip + i) / kPerWord];
      codes[Source(strip, to, cols)] = static_cast<uint8_t>((word >> (4 * (i % kPerWord))) & 15u);
    }
  });
  return codes;
}

std::vector<float> ToMarlinScales(std::span<const float> scales, int64_t rows, int64_t groups) {
  std::vector<float> stored(scales.size());
  ForEachScale(rows, groups, [&](int64_t to, int64_t from) { stored[to] = scales[from]; });
  return stored;
}

std::vector<float> FromMarlinScales(std::span<const float> stored, int64_t rows, int64_t groups) {
  std::vector<float> scales(stored.size());
  ForEachScale(rows, groups, [&](int64_t from, int64_t to) { scales[to] = stored[from]; });
  return scales;
}

}  // namespace quantd

#include "quantizers/codecs/awq_packing.h"

#include <algorithm>

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int kOrder[8] = {0, 2, 4, 6, 1, 3, 5, 7};

// Replaces every eight of a row by `body(eight, reordered)`.
template <class Body>
void ForEachEight(int64_t rows, int64_t cols, std::vector<uint8_t>* codes, const Body& body) {
  ParallelFor(rows, [&](int64_t row) {
    uint8_t* eight = codes->data() + row * cols;
    for (uint8_t* end = eight + cols; eight != end; eight += 8) {
      uint8_t reordered[8];
      body(eight, reordered);
      std::copy(reordered, reordered + 8, eight);
    }
  });
}

// Which channel of a run of 32 stands at place `place`: (4, 4, 2) channels have their first two
// axes swapped, then every eight is interleaved.
int FastChannel(int place) {
  const int swapped = place / 8 * 8 + kOrder[place % 8];
  return swapped % 8 / 2 * 8 + swapped / 8 * 2 + swapped % 2;
}

// Calls body(index of word, element of codes [rows, cols], shift) for every code of four rows.
template <class Body>
void ForEachFastCode(int64_t quad, int64_t cols, const Body& body) {
  for (int64_t word = 0; word < cols; ++word) {
    const int64_t block = word / 64;
    const int64_t row = quad * 4 + word % 64 / 16;
    for (int nibble = 0; nibble < 4; ++nibble) {
      const int place = static_cast<int>(word % 16) * 4 + nibble;
      const int64_t channel = block * 64 + place / 32 * 32 + FastChannel(place % 32);
      body(quad * cols + word, row * cols + channel, 4 * nibble);
    }
  }
}

}  // namespace

void InterleaveEights(int64_t rows, int64_t cols, std::vector<uint8_t>* codes) {
  ForEachEight(rows, cols, codes, [](const uint8_t* eight, uint8_t* reordered) {
    for (int i = 0; i < 8; ++i) reordered[i] = eight[kOrder[i]];
  });
}

void DeinterleaveEights(int64_t rows, int64_t cols, std::vector<uint8_t>* codes) {
  ForEachEight(rows, cols, codes, [](const uint8_t* eight, uint8_t* reordered) {
    for (int i = 0; i < 8; ++i) reordered[kOrder[i]] = eight[i];
  });
}

int64_t GemvZeroWords(int64_t groups, int64_t group_size) {
  const int64_t multiple = group_size >= 128 ? 1 : group_size == 64 ? 2 : group_size == 32 ? 4 : 0;
  if (multiple == 0) return 0;
  const int64_t words = (groups + 7) / 8;
  return (words + multiple - 1) / multiple * multiple;
}

std::vector<uint16_t> PackGemvFast(std::span<const uint8_t> codes, int64_t rows, int64_t cols) {
  std::vector<uint16_t> words(static_cast<size_t>(rows / 4 * cols));
  ParallelFor(rows / 4, [&](int64_t quad) {
    ForEachFastCode(quad, cols, [&](int64_t word, int64_t element, int shift) {
      words[word] = static_cast<uint16_t>(words[word] | (codes[element] << shift));
    });
  });
  return words;
}

std::vector<uint8_t> UnpackGemvFast(std::span<const uint16_t> words, int64_t rows, int64_t cols) {
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  ParallelFor(rows / 4, [&](int64_t quad) {
    ForEachFastCode(quad, cols, [&](int64_t word, int64_t element, int shift) {
      codes[element] = static_cast<uint8_t>((words[word] >> shift) & 15);
    });
  });
  return codes;
}

}  // namespace quantd

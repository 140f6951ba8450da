#include "quantizers/codecs/bit_packing.h"

#include <algorithm>
#include <bit>

#include "core/parallel.h"
#include "quantizers/codecs/nibbles.h"

namespace quantd {
namespace {

// Codes that a word holds whole; dense rows of 3, 5, 6 and 7 bits run through the words instead.
bool HasWholeCodes(int bits, WordPacking packing) {
  return packing == WordPacking::kWholeCodes || 32 % bits == 0;
}

constexpr int kPlanarRun = 32;  // codes that share their words

// Calls plane(width, shift) for the planes of a code, lowest bits first: as wide as possible.
template <class Plane>
void ForEachPlane(int bits, const Plane& plane) {
  int shift = 0;
  for (int width : {4, 2, 1}) {
    if (bits - shift < width) continue;
    plane(width, shift);
    shift += width;
  }
}

void PackPlanarRow(const uint8_t* codes, int64_t count, int bits, uint32_t* words) {
  for (int64_t first = 0; first < count; first += kPlanarRun) {
    const int64_t run = std::min<int64_t>(kPlanarRun, count - first);
    ForEachPlane(bits, [&](int width, int shift) {
      const int per_word = 32 / width;
      const uint32_t mask = (1u << width) - 1;
      for (int64_t i = 0; i < run; ++i) {
        const uint32_t field = (uint32_t{codes[first + i]} >> shift) & mask;
        words[i / per_word] |= field << (width * (i % per_word));
      }
      words += width;
    });
  }
}

void UnpackPlanarRow(const uint32_t* words, int64_t count, int bits, uint8_t* codes) {
  for (int64_t first = 0; first < count; first += kPlanarRun) {
    const int64_t run = std::min<int64_t>(kPlanarRun, count - first);
    ForEachPlane(bits, [&](int width, int shift) {
      const int per_word = 32 / width;
      const uint32_t mask = (1u << width) - 1;
      for (int64_t i = 0; i < run; ++i) {
        const uint32_t field = (words[i / per_word] >> (width * (i % per_word))) & mask;
        codes[first + i] |= static_cast<uint8_t>(field << shift);
      }
      words += width;
    });
  }
}

void PackRow(const uint8_t* codes, int64_t count, int bits, bool whole, uint32_t* words) {
  constexpr bool kLittleEndian = std::endian::native == std::endian::little;
  if (kLittleEndian && bits == 4 && whole && count % 8 == 0) {
    PackPairs(codes, count / 2, NibbleOrder::kLowFirst, reinterpret_cast<uint8_t*>(words));
    return;
  }
  if (whole) {
    const int64_t per_word = 32 / bits;
    for (int64_t i = 0; i < count; i += per_word, ++words) {
      uint32_t word = 0;
      const int64_t end = std::min(per_word, count - i);
      for (int64_t k = 0; k < end; ++k) word |= uint32_t{codes[i + k]} << (k * bits);
      *words = word;
    }
    return;
  }
  uint64_t window = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    window |= uint64_t{codes[i]} << filled;
    filled += bits;
    if (filled >= 32) {
      *words++ = static_cast<uint32_t>(window);
      window >>= 32;
      filled -= 32;
    }
  }
  if (filled > 0) *words = static_cast<uint32_t>(window);
}

void UnpackRow(const uint32_t* words, int64_t count, int bits, bool whole, uint8_t* codes) {
  const uint32_t mask = (1u << bits) - 1;
  if (whole) {
    const int64_t per_word = 32 / bits;
    for (int64_t i = 0; i < count; i += per_word, ++words) {
      const int64_t end = std::min(per_word, count - i);
      for (int64_t k = 0; k < end; ++k) {
        codes[i + k] = static_cast<uint8_t>((*words >> (k * bits)) & mask);
      }
    }
    return;
  }
  uint64_t window = 0;
  int filled = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (filled < bits) {
      window |= uint64_t{*words++} << filled;
      filled += 32;
    }
    codes[i] = static_cast<uint8_t>(window & mask);
    window >>= bits;
    filled -= bits;
  }
}

}  // namespace

int64_t WordsPerRow(int64_t count, int bits, WordPacking packing) {
  if (packing == WordPacking::kDense) return (count * bits + 31) / 32;
  if (packing == WordPacking::kPlanar && 32 % bits != 0) {
    return (count + kPlanarRun - 1) / kPlanarRun * bits;
  }
  const int64_t per_word = 32 / bits;
  return (count + per_word - 1) / per_word;
}

std::vector<uint32_t> PackWords(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                int bits, WordPacking packing) {
  const int64_t width = WordsPerRow(cols, bits, packing);
  const bool whole = HasWholeCodes(bits, packing);
  std::vector<uint32_t> words(static_cast<size_t>(rows * width));
  const bool planar = packing == WordPacking::kPlanar && !whole;
  const auto pack = [&](int64_t row) {
    const uint8_t* from = codes.data() + row * cols;
    uint32_t* to = words.data() + row * width;
    planar ? PackPlanarRow(from, cols, bits, to) : PackRow(from, cols, bits, whole, to);
  };
  constexpr double kSecondsPerCode = 0.5e-9;  // about
  ParallelFor(rows, pack, kSecondsPerCode * static_cast<double>(cols));
  return words;
}

std::vector<uint8_t> UnpackWords(std::span<const uint32_t> words, int64_t rows, int64_t cols,
                                 int bits, WordPacking packing) {
  const int64_t width = WordsPerRow(cols, bits, packing);
  const bool whole = HasWholeCodes(bits, packing);
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  const bool planar = packing == WordPacking::kPlanar && !whole;
  ParallelFor(rows, [&](int64_t row) {
    const uint32_t* from = words.data() + row * width;
    uint8_t* to = codes.data() + row * cols;
    planar ? UnpackPlanarRow(from, cols, bits, to) : UnpackRow(from, cols, bits, whole, to);
  });
  return codes;
}

}  // namespace quantd

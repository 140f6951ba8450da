#include "quantizers/codecs/bit_packing.h"

#include <algorithm>

#include "core/parallel.h"

namespace quantd {
namespace {

// Codes that a word holds whole; dense rows of 3, 5, 6 and 7 bits run through the words instead.
bool HasWholeCodes(int bits, WordPacking packing) {
  return packing == WordPacking::kWholeCodes || 32 % bits == 0;
}

void PackRow(const uint8_t* codes, int64_t count, int bits, bool whole, uint32_t* words) {
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
  const int64_t per_word = 32 / bits;
  return (count + per_word - 1) / per_word;
}

std::vector<uint32_t> PackWords(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                int bits, WordPacking packing) {
  const int64_t width = WordsPerRow(cols, bits, packing);
  const bool whole = HasWholeCodes(bits, packing);
  std::vector<uint32_t> words(static_cast<size_t>(rows * width));
  ParallelFor(rows, [&](int64_t row) {
    PackRow(codes.data() + row * cols, cols, bits, whole, words.data() + row * width);
  });
  return words;
}

std::vector<uint8_t> UnpackWords(std::span<const uint32_t> words, int64_t rows, int64_t cols,
                                 int bits, WordPacking packing) {
  const int64_t width = WordsPerRow(cols, bits, packing);
  const bool whole = HasWholeCodes(bits, packing);
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  ParallelFor(rows, [&](int64_t row) {
    UnpackRow(words.data() + row * width, cols, bits, whole, codes.data() + row * cols);
  });
  return codes;
}

}  // namespace quantd

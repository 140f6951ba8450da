// Codes of 1 to 8 bits in rows of 32-bit words, least significant bits first.
#ifndef QUANTD_QUANTIZERS_CODECS_BIT_PACKING_H_
#define QUANTD_QUANTIZERS_CODECS_BIT_PACKING_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/parallel.h"

namespace quantd {

// kDense: a row is one bit string, codes straddle words (compressed-tensors 0.15 and later).
// kWholeCodes: floor(32 / bits) codes a word, its high bits unused (earlier). The same for 1, 2,
// 4, 8.
// kPlanar: 32 codes fill `bits` words; 3, 5, 6 and 7 bits are split into planes of 1, 2 and 4 bits,
// the lowest bits of all 32 codes first (GPTQModel 7.7, format gptq_p). Else like kDense.
enum class WordPacking { kDense, kWholeCodes, kPlanar };

// Words that a row of `count` codes takes.
int64_t WordsPerRow(int64_t count, int bits, WordPacking packing);

// codes [rows, cols] to words [rows, WordsPerRow(cols)]; unused bits are zero.
std::vector<uint32_t> PackWords(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                int bits, WordPacking packing);
std::vector<uint8_t> UnpackWords(std::span<const uint32_t> words, int64_t rows, int64_t cols,
                                 int bits, WordPacking packing);

// The transpose of `values` [rows, cols].
template <class T>
std::vector<T> Transposed(const std::vector<T>& values, int64_t rows, int64_t cols) {
  constexpr int64_t kTile = 64;  // rows that share cache lines of the result
  std::vector<T> out(values.size());
  ParallelFor((rows + kTile - 1) / kTile, [&](int64_t tile) {
    const int64_t end = std::min(rows, (tile + 1) * kTile);
    for (int64_t col = 0; col < cols; ++col) {
      for (int64_t row = tile * kTile; row < end; ++row) {
        out[col * rows + row] = values[row * cols + col];
      }
    }
  });
  return out;
}

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_BIT_PACKING_H_

#include "quantizers/codecs/hqq_packing.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr HqqPacking kBytes = {"8bit_u8", 8, 1, DType::kU8};
constexpr HqqPacking kNibbles = {"4bit_u8", 4, 2, DType::kU8};
constexpr HqqPacking kThreeBits = {"3bit_32", 3, 10, DType::kI32};
constexpr HqqPacking kTwoBits = {"2bit_u8", 2, 4, DType::kU8};
constexpr HqqPacking kOneBit = {"1bit_u8", 1, 8, DType::kU8};

constexpr HqqBits kWidths[] = {
    {"8", 8, 8, 255, kBytes},        {"6", 6, 6, 63, kBytes},    {"5", 5, 5, 31, kBytes},
    {"4", 4, 4, 15, kNibbles},       {"3", 3, 3, 7, kThreeBits}, {"2", 2, 2, 3, kTwoBits},
    {"1.58", 1.58f, 2, 2, kTwoBits}, {"1", 1, 1, 1, kOneBit},
};

// Position of the field of run `run` within a word.
int ShiftOf(const HqqPacking& packing, int run) {
  return (packing.per_word - 1 - run) * packing.bits;
}

// Word rows [begin, end): neighbouring rows of a run are neighbours in the matrix too.
template <class Word>
void PackRows(const HqqPacking& packing, std::span<const uint8_t> codes, int64_t begin, int64_t end,
              int64_t word_rows, int64_t rows, int64_t cols, std::byte* out) {
  std::vector<Word> words(static_cast<size_t>((end - begin) * cols));
  for (int run = 0; run < packing.per_word; ++run) {
    const int64_t first = run * word_rows + begin;
    const int64_t count = (std::min(rows, run * word_rows + end) - first) * cols;
    if (count <= 0) break;
    const uint8_t* from = codes.data() + first * cols;
    const int shift = ShiftOf(packing, run);
    for (int64_t i = 0; i < count; ++i) words[i] |= static_cast<Word>(Word{from[i]} << shift);
  }
  std::memcpy(out + begin * cols * sizeof(Word), words.data(), words.size() * sizeof(Word));
}

template <class Word>
bool UnpackRow(const HqqPacking& packing, const std::byte* words, int64_t row, int64_t word_rows,
               int64_t rows, int64_t cols, uint8_t* codes) {
  const uint32_t mask = (1u << packing.bits) - 1;
  uint32_t unused = 0;
  for (int64_t c = 0; c < cols; ++c) {
    Word word;
    std::memcpy(&word, words + (row * cols + c) * sizeof(Word), sizeof(Word));
    uint32_t rest = word;
    for (int run = 0; run < packing.per_word; ++run) {
      const int shift = ShiftOf(packing, run);
      const int64_t to = run * word_rows + row;
      if (to >= rows) continue;
      codes[to * cols + c] = static_cast<uint8_t>((word >> shift) & mask);
      rest &= ~(mask << shift);
    }
    unused |= rest;
  }
  return unused == 0;
}

}  // namespace

std::span<const HqqBits> AllHqqBits() { return kWidths; }

const HqqBits* FindHqqBits(absl::string_view name) {
  for (const HqqBits& width : kWidths) {
    if (width.name == name) return &width;
  }
  return nullptr;
}

const HqqBits* FindHqqBits(float value) {
  for (const HqqBits& width : kWidths) {
    if (width.value == value) return &width;
  }
  return nullptr;
}

int64_t HqqWordRows(const HqqPacking& packing, int64_t rows) {
  return (rows + packing.per_word - 1) / packing.per_word;
}

Tensor PackHqq(const HqqPacking& packing, std::span<const uint8_t> codes, int64_t rows,
               int64_t cols) {
  const int64_t word_rows = HqqWordRows(packing, rows);
  Tensor words = MakeTensor(packing.word, {word_rows, cols});
  constexpr int64_t kTask = 1 << 15;  // words, about
  const int64_t lines = std::max<int64_t>(1, kTask / cols);
  ParallelFor((word_rows + lines - 1) / lines, [&](int64_t task) {
    const int64_t begin = task * lines, end = std::min(word_rows, begin + lines);
    if (packing.word == DType::kI32) {
      PackRows<uint32_t>(packing, codes, begin, end, word_rows, rows, cols, words.bytes.data());
    } else {
      PackRows<uint8_t>(packing, codes, begin, end, word_rows, rows, cols, words.bytes.data());
    }
  });
  return words;
}

bool UnpackHqq(const HqqPacking& packing, std::span<const std::byte> words, int64_t rows,
               int64_t cols, std::vector<uint8_t>* codes) {
  const int64_t word_rows = HqqWordRows(packing, rows);
  codes->resize(static_cast<size_t>(rows * cols));
  std::atomic<bool> clean = true;
  ParallelFor(word_rows, [&](int64_t row) {
    const bool row_is_clean =
        packing.word == DType::kI32
            ? UnpackRow<uint32_t>(packing, words.data(), row, word_rows, rows, cols, codes->data())
            : UnpackRow<uint8_t>(packing, words.data(), row, word_rows, rows, cols, codes->data());
    if (!row_is_clean) clean = false;
  });
  return clean;
}

}  // namespace quantd

#include "quantizers/codecs/higgs_packing.h"

#include <array>

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int kMostCodes = 32;

// Codes that are packed together: those of one lane of one chunk of rows in two neighbouring
// columns. 8, 16 or 32 of them.
using Codes = std::array<uint8_t, kMostCodes>;
// The words of the lane: [plane][column of the pair].
using Words = std::array<std::array<uint16_t, 2>, 3>;

// Words of 2- and 4-bit codes are independent of each other, 3-bit codes need three.
int Planes(const FlutePacking& packing) { return packing.bits == 3 ? 3 : 1; }
int CodesPerLane(const FlutePacking& packing) {
  return packing.bits == 3 ? kMostCodes : 32 / packing.bits;
}

// Row run (in units of `tile` rows of the chunk) and column of the pair that code `i` comes from.
struct Origin {
  int run;
  int column;
};

Origin OriginOf(const FlutePacking& packing, int i) {
  constexpr int kThreeBitRuns[] = {0, 3, 6, 9, 12, 1, 4, 7, 10, 13, 2, 5, 8, 11, 14, 15};
  return {packing.bits == 3 ? kThreeBitRuns[i / 2] : i / 2, 1 - i % 2};
}

// 3 bits: a plane holds ten codes in its 30 low bits; its two high bits hold two of the six bits of
// the last two codes.
Words JoinThreeBits(const Codes& codes) {
  const uint32_t last = codes[30] | (uint32_t{codes[31]} << 3);
  Words words{};
  for (int plane = 0; plane < 3; ++plane) {
    uint32_t value = (last >> (2 * plane) & 3) << 30;
    for (int i = 0; i < 10; ++i) value |= uint32_t{codes[plane * 10 + i]} << (3 * i);
    words[plane] = {static_cast<uint16_t>(value), static_cast<uint16_t>(value >> 16)};
  }
  return words;
}

Codes SplitThreeBits(const Words& words) {
  Codes codes{};
  uint32_t last = 0;
  for (int plane = 0; plane < 3; ++plane) {
    const uint32_t value = words[plane][0] | (uint32_t{words[plane][1]} << 16);
    for (int i = 0; i < 10; ++i) codes[plane * 10 + i] = value >> (3 * i) & 7;
    last |= (value >> 30) << (2 * plane);
  }
  codes[30] = last & 7;
  codes[31] = last >> 3;
  return codes;
}

// 2 and 4 bits: the codes in order, the first half in the first column's word.
Words Join(const FlutePacking& packing, const Codes& codes) {
  if (packing.bits == 3) return JoinThreeBits(codes);
  const int per_word = 16 / packing.bits;
  Words words{};
  for (int i = 0; i < 2 * per_word; ++i) {
    words[0][i / per_word] |= static_cast<uint16_t>(codes[i] << (i % per_word * packing.bits));
  }
  return words;
}

Codes Split(const FlutePacking& packing, const Words& words) {
  if (packing.bits == 3) return SplitThreeBits(words);
  const int per_word = 16 / packing.bits;
  Codes codes{};
  for (int i = 0; i < 2 * per_word; ++i) {
    codes[i] = words[0][i / per_word] >> (i % per_word * packing.bits) & ((1 << packing.bits) - 1);
  }
  return codes;
}

// Calls body(chunk, lane, column) for every lane and pair of columns; `word_row(plane)` and
// `row(run)` below say where its words and codes are.
template <class Body>
void ForEachLane(const FlutePacking& packing, int64_t rows, int64_t cols, const Body& body) {
  const int64_t lanes = rows / packing.row_multiple() * packing.tile;
  ParallelFor(lanes, [&](int64_t index) {
    for (int64_t column = 0; column < cols; column += 2) {
      body(index / packing.tile, index % packing.tile, column);
    }
  });
}

// Row of the packed matrix: one plane of all lanes, then the others, chunk by chunk.
int64_t WordRow(const FlutePacking& packing, int64_t rows, int64_t chunk, int64_t lane, int plane) {
  if (plane == 0) return chunk * packing.tile + lane;
  return rows / 16 + (2 * chunk + plane - 1) * packing.tile + lane;
}

int64_t CodeRow(const FlutePacking& packing, int64_t chunk, int64_t lane, int run) {
  return chunk * packing.row_multiple() + run * packing.tile + lane;
}

}  // namespace

int FluteTile(int bits, int64_t template_id) {
  const int64_t third = bits == 4 ? 16 : 4;
  if (template_id < 0 || template_id >= 9 * third) return -1;
  return template_id / third % 3 == 0 ? 64 : 32;
}

int FluteDefaultTemplate(int bits) { return bits == 4 ? 16 : 4; }

std::vector<uint16_t> PackFlute(const FlutePacking& packing, std::span<const uint8_t> codes,
                                int64_t rows, int64_t cols) {
  std::vector<uint16_t> words(static_cast<size_t>(packing.word_rows(rows) * cols));
  ForEachLane(packing, rows, cols, [&](int64_t chunk, int64_t lane, int64_t column) {
    Codes taken{};
    for (int i = 0; i < CodesPerLane(packing); ++i) {
      const Origin origin = OriginOf(packing, i);
      taken[i] = codes[CodeRow(packing, chunk, lane, origin.run) * cols + column + origin.column];
    }
    const Words joined = Join(packing, taken);
    for (int plane = 0; plane < Planes(packing); ++plane) {
      const int64_t to = WordRow(packing, rows, chunk, lane, plane) * cols + column;
      words[to] = joined[plane][0];
      words[to + 1] = joined[plane][1];
    }
  });
  return words;
}

std::vector<uint8_t> UnpackFlute(const FlutePacking& packing, std::span<const uint16_t> words,
                                 int64_t rows, int64_t cols) {
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  ForEachLane(packing, rows, cols, [&](int64_t chunk, int64_t lane, int64_t column) {
    Words joined{};
    for (int plane = 0; plane < Planes(packing); ++plane) {
      const int64_t from = WordRow(packing, rows, chunk, lane, plane) * cols + column;
      joined[plane] = {words[from], words[from + 1]};
    }
    const Codes split = Split(packing, joined);
    for (int i = 0; i < CodesPerLane(packing); ++i) {
      const Origin origin = OriginOf(packing, i);
      codes[CodeRow(packing, chunk, lane, origin.run) * cols + column + origin.column] = split[i];
    }
  });
  return codes;
}

}  // namespace quantd

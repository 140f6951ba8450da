// How hqq packs codes into words (hqq 0.2.8, core/bitpack.py): the rows of a matrix of codes are
// cut into as many equal runs as a word holds codes, and a word takes one code of each run, the
// first run's in the highest bits.
#ifndef QUANTD_QUANTIZERS_CODECS_HQQ_PACKING_H_
#define QUANTD_QUANTIZERS_CODECS_HQQ_PACKING_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "core/tensor.h"

namespace quantd {

// One of upstream's packings; there is one for each width of a field.
struct HqqPacking {
  absl::string_view name;  // "4bit_u8", as stored in the tensor `packing`
  int bits;                // of a field
  int per_word;
  DType word;  // kU8 or kI32
};

// A width as hqq counts it: three levels are "1.58" bits.
struct HqqBits {
  absl::string_view name;  // "4", "1.58"
  float value;
  int bits;      // width of a code
  int max_code;  // round(2^value - 1)
  HqqPacking packing;
};

// All widths, widest first.
std::span<const HqqBits> AllHqqBits();
// By name or value; null when hqq does not have it.
const HqqBits* FindHqqBits(absl::string_view name);
const HqqBits* FindHqqBits(float value);

// Rows of words that `rows` rows of codes take. Only 3-bit words may be partly filled.
int64_t HqqWordRows(const HqqPacking& packing, int64_t rows);
// codes [rows, cols] as words [HqqWordRows, cols].
Tensor PackHqq(const HqqPacking& packing, std::span<const uint8_t> codes, int64_t rows,
               int64_t cols);
// The reverse; false when bits that hold no code are set.
bool UnpackHqq(const HqqPacking& packing, std::span<const std::byte> words, int64_t rows,
               int64_t cols, std::vector<uint8_t>* codes);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HQQ_PACKING_H_

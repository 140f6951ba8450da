// Codes packed across rows: halves or quarters of a matrix share bytes (optimum-quanto, BitNet).
#ifndef QUANTD_QUANTIZERS_CODECS_ROW_SLICES_H_
#define QUANTD_QUANTIZERS_CODECS_ROW_SLICES_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

// codes [rows, cols] of 2 or 4 bits, and their bytes [ceil(rows / v), cols], v = 8 / bits: byte
// (i, j) holds column j of the rows i, i + r, i + 2r, ... of all r = ceil(rows / v), lowest bits
// first. Missing last rows are zero bits.
std::vector<uint8_t> PackRowSlices(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                   int bits);
std::vector<uint8_t> UnpackRowSlices(std::span<const uint8_t> bytes, int64_t rows, int64_t cols,
                                     int bits);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_ROW_SLICES_H_

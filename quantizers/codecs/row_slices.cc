#include "quantizers/codecs/row_slices.h"

#include "core/parallel.h"

namespace quantd {

std::vector<uint8_t> PackRowSlices(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                   int bits) {
  const int64_t slice = (rows + 8 / bits - 1) / (8 / bits);
  std::vector<uint8_t> bytes(static_cast<size_t>(slice * cols));
  ParallelFor(slice, [&](int64_t i) {
    uint8_t* line = bytes.data() + i * cols;
    for (int shift = 0; i < rows; i += slice, shift += bits) {
      const uint8_t* row = codes.data() + i * cols;
      for (int64_t c = 0; c < cols; ++c) line[c] |= static_cast<uint8_t>(row[c] << shift);
    }
  });
  return bytes;
}

std::vector<uint8_t> UnpackRowSlices(std::span<const uint8_t> bytes, int64_t rows, int64_t cols,
                                     int bits) {
  const int64_t slice = (rows + 8 / bits - 1) / (8 / bits);
  const uint8_t mask = static_cast<uint8_t>((1 << bits) - 1);
  std::vector<uint8_t> codes(static_cast<size_t>(rows * cols));
  ParallelFor(rows, [&](int64_t row) {
    const uint8_t* line = bytes.data() + row % slice * cols;
    const int shift = static_cast<int>(row / slice) * bits;
    uint8_t* out = codes.data() + row * cols;
    for (int64_t c = 0; c < cols; ++c) out[c] = (line[c] >> shift) & mask;
  });
  return codes;
}

}  // namespace quantd

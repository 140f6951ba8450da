#include "quantizers/codecs/row_slices.h"

#include <algorithm>

#include "core/parallel.h"

namespace quantd {

std::vector<uint8_t> PackRowSlices(std::span<const uint8_t> codes, int64_t rows, int64_t cols,
                                   int bits) {
  constexpr int64_t kTask = 1 << 16;  // bytes, about
  const int64_t slice = (rows + 8 / bits - 1) / (8 / bits);
  const int64_t lines = std::max<int64_t>(1, kTask / cols);
  std::vector<uint8_t> bytes(static_cast<size_t>(slice * cols));
  ParallelFor((slice + lines - 1) / lines, [&](int64_t task) {
    const int64_t begin = task * lines, end = std::min(slice, begin + lines);
    uint8_t* line = bytes.data() + begin * cols;
    // Neighbouring rows of a slice are neighbours in the matrix too.
    for (int shift = 0; shift < 8; shift += bits) {
      const int64_t first = begin + shift / bits * slice;
      const int64_t count = (std::min(rows, end + shift / bits * slice) - first) * cols;
      if (count <= 0) break;
      const uint8_t* row = codes.data() + first * cols;
      for (int64_t i = 0; i < count; ++i) line[i] |= static_cast<uint8_t>(row[i] << shift);
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

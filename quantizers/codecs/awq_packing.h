// The orders in which AWQ's layouts pack 4-bit codes (autoawq 0.2.9, modules/linear/).
#ifndef QUANTD_QUANTIZERS_CODECS_AWQ_PACKING_H_
#define QUANTD_QUANTIZERS_CODECS_AWQ_PACKING_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

// gemm: every eight neighbours of a row are stored in the order 0, 2, 4, 6, 1, 3, 5, 7. `cols` is a
// multiple of 8; codes [rows, cols] are reordered in place, the second undoes the first.
void InterleaveEights(int64_t rows, int64_t cols, std::vector<uint8_t>* codes);
void DeinterleaveEights(int64_t rows, int64_t cols, std::vector<uint8_t>* codes);

// gemv: 32-bit words that hold the zero points of one row of `groups` groups; their number is
// padded by the group size. 0 when upstream has no layout for the group size.
int64_t GemvZeroWords(int64_t groups, int64_t group_size);

// gemv_fast (pack_intweight of gemv_fast.py): codes [rows, cols] to int16 words [rows / 4, cols]
// and back. `rows` is a multiple of 4, `cols` one of 64.
std::vector<uint16_t> PackGemvFast(std::span<const uint8_t> codes, int64_t rows, int64_t cols);
std::vector<uint8_t> UnpackGemvFast(std::span<const uint16_t> words, int64_t rows, int64_t cols);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AWQ_PACKING_H_

// FLUTE's packing of 2-, 3- and 4-bit codes (flute-kernel 0.4.2, flute/utils.py): 16-bit words in
// the order in which a tensor core kernel with tiles of `tile` words wants them.
#ifndef QUANTD_QUANTIZERS_CODECS_HIGGS_PACKING_H_
#define QUANTD_QUANTIZERS_CODECS_HIGGS_PACKING_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

struct FlutePacking {
  int bits = 4;  // 2, 3 or 4
  int tile = 32;

  // Rows of a matrix are packed in runs of this many; they must be a multiple of it.
  int64_t row_multiple() const { return tile * (bits == 3 ? 16 : 16 / bits); }
  // Words in each column of the packed matrix.
  int64_t word_rows(int64_t rows) const { return rows / 16 * bits; }
};

// tileP of a kernel template: the first third of each period of templates has 64, the rest 32. -1
// when there is no such template. Source: flute's qgemm_kernel_raw_generated_configs.
int FluteTile(int bits, int64_t template_id);
// The first template with tiles of 32.
int FluteDefaultTemplate(int bits);

// codes [rows, cols] as words [word_rows, cols]. Columns are even.
std::vector<uint16_t> PackFlute(const FlutePacking& packing, std::span<const uint8_t> codes,
                                int64_t rows, int64_t cols);
std::vector<uint8_t> UnpackFlute(const FlutePacking& packing, std::span<const uint16_t> words,
                                 int64_t rows, int64_t cols);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HIGGS_PACKING_H_

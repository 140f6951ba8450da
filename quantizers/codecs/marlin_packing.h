// The order of 4-bit codes and scales in serialized Marlin checkpoints: that of the kernel's tensor
// core tiles (auto-gptq 0.7.1, nn_modules/qlinear/qlinear_marlin.py; autoawq 0.2.9,
// modules/linear/marlin.py).
#ifndef QUANTD_QUANTIZERS_CODECS_MARLIN_PACKING_H_
#define QUANTD_QUANTIZERS_CODECS_MARLIN_PACKING_H_

#include <cstdint>
#include <span>
#include <vector>

namespace quantd {

// codes [rows, cols] (out, in) below 16 to words [cols / 16, rows * 2] and back. `cols` is a
// multiple of 16, `rows` one of 64.
std::vector<uint32_t> PackMarlin(std::span<const uint8_t> codes, int64_t rows, int64_t cols);
std::vector<uint8_t> UnpackMarlin(std::span<const uint32_t> words, int64_t rows, int64_t cols);

// scales [rows, groups] to the stored order [groups, rows] and back. `rows` is a multiple of 64.
std::vector<float> ToMarlinScales(std::span<const float> scales, int64_t rows, int64_t groups);
std::vector<float> FromMarlinScales(std::span<const float> stored, int64_t rows, int64_t groups);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_MARLIN_PACKING_H_

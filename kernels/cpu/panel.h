// How the CPU backend tiles a matrix, and what a kernel is given.
//
// A matrix [rows, cols] becomes panels of 16 rows, so that one 512-bit line holds one step of the
// columns for 16 rows and a dot product needs no horizontal sum: row r of a panel is 32-bit lane r.
//
//   element     line of 64 bytes                               columns per line
//   kF32        [16 rows]                                      1
//   kF16        [2 cols][16 rows]                              2
//   kBf16       [16 rows][2 cols]                              2
//   kU8, kFp8   [16 rows][4 cols]                              4   ("quad")
//   kU4, kLut4  [16 rows][4 bytes]: low nibbles are the first  8
//               quad of columns, high nibbles the next one
//
// Columns that share a scale form a group; a group is padded to whole blocks of 16, 32 or 64
// columns (padding meets zero activations), so kernels never see a tail. A panel is its lines, then
// the scales [groups][16], then the zeros or offsets [groups][16].
#ifndef QUANTD_KERNELS_CPU_PANEL_H_
#define QUANTD_KERNELS_CPU_PANEL_H_

#include <cstddef>
#include <cstdint>

namespace quantd::cpu {

constexpr int kPanelRows = 16;
// No kernel takes more tokens at once: with 16 rows that is 12 + 12 of AVX-512's 32 registers.
constexpr int kMaxTileTokens = 12;
constexpr int kLineBytes = 64;

enum class Element : uint8_t { kF32, kF16, kBf16, kU8, kU4, kLut4, kFp8 };

// What turns a code into a weight, beside its group's scale.
enum class ZeroMode : uint8_t {
  kConstant,  // (code - c) * scale, c the same everywhere
  kZero,      // (code - zero[group]) * scale[group]
  kOffset,    // code * scale[group] + offset[group]
};

// Where the parts of a group are, in bytes from the start of a panel. Headers are whole lines; f16
// scales without zeros fill half of one, so two groups share it.
struct GroupLayout {
  int64_t group_bytes = 0;   // lines of one group
  int64_t header_bytes = 0;  // 0 for dense panels
  int64_t zeros_offset = 0;  // from a group's scales to its zeros
  bool shared_header = false;

  int64_t scales(int64_t group) const {
    if (!shared_header) return group * (header_bytes + group_bytes);
    return (group >> 1) * (header_bytes + 2 * group_bytes) + (group & 1) * (header_bytes / 2);
  }
  int64_t zeros(int64_t group) const { return scales(group) + zeros_offset; }
  int64_t codes(int64_t group) const {
    if (!shared_header) return group * (header_bytes + group_bytes) + header_bytes;
    return ((group >> 1) + 1) * header_bytes + group * group_bytes;
  }
};

// The order in which a kernel wants the activations of a tile of n tokens. Narrow activations come
// in two terms, a coarse one and what it left: on heavy-tailed models one int8 or bf16 term moves
// logits by several percent, two by less than 1e-3, and decoding is bound by memory anyway.
enum class XFormat : uint8_t {
  kF32,        // [cols][n]
  kBf16Pairs,  // [cols / 2][n][2 terms][2]
  kBf16Quads,  // as pairs, columns 0 2 1 3 of every quad (kFp8 lines split into even and odd bytes)
  kInt16,  // [cols / 4][n][2 terms][4 int8], x = 256 first + second, a scale per block and token
};
constexpr int kQuadBytes = 8;  // of one token in kInt16
constexpr float kInt16Most = 127 * 256;

// One panel of kU4 or kU8 against one tile of kInt16 activations:
//   out[t][r] = sum over blocks b of  scale[r][group of b] * x_scale[b][t] * dot(codes, x),
//   corrected
//               for the zero; blocks in ascending order, so the result is the same in any tile.
struct IntTile {
  Element element = Element::kU8;
  ZeroMode zero_mode = ZeroMode::kConstant;
  bool half_scales = false;  // scales and zeros are f16 instead of f32
  int tokens = 1;
  int block_cols = 32;
  int64_t groups = 1;
  int64_t blocks_per_group = 1;
  GroupLayout layout;
  const std::byte* panel = nullptr;
  const int8_t* x = nullptr;
  const float* x_scale = nullptr;    // [blocks][tokens]
  const int32_t* x_start = nullptr;  // [blocks][tokens] -c * sum of the block's x; kConstant
  const float* x_sum = nullptr;      // [blocks][tokens] sum of x (kZero), times x_scale (kOffset)
  float* out = nullptr;              // [tokens][16]
};

// One panel of any other element against float activations. kF32, kF16 and kBf16 have one group and
// no scales.
struct FloatTile {
  Element element = Element::kF32;
  bool half_scales = false;
  int tokens = 1;
  int64_t groups = 1;
  int64_t group_cols = 0;  // padded
  GroupLayout layout;
  const std::byte* panel = nullptr;
  const float* table = nullptr;  // 16 values (kLut4)
  const void* x = nullptr;       // in the format that the kernel table asks for
  float* out = nullptr;          // [tokens][16]
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_PANEL_H_

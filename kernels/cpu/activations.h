// Activations of one Linear call in the order and precision that kernels want them.
#ifndef QUANTD_KERNELS_CPU_ACTIVATIONS_H_
#define QUANTD_KERNELS_CPU_ACTIVATIONS_H_

#include <cstdint>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_matrix.h"

namespace quantd::cpu {

// What a matrix asks of its activations. Matrices that ask for the same share one copy.
struct ActivationFormat {
  XFormat format = XFormat::kF32;
  ColumnPlan columns;
  ZeroMode zero_mode = ZeroMode::kConstant;  // kInt16: which sums
  int32_t zero = 0;                          // kInt16, kConstant
  int tile = 1;                              // most tokens in a tile
  bool operator==(const ActivationFormat&) const = default;
};

ActivationFormat FormatFor(const PackedMatrix& matrix, const KernelTable& kernels);

// The tokens [first, first + count) of a batch that a kernel takes at once.
struct TokenTile {
  int64_t first = 0;
  int count = 0;
};

// Batches are cut into tiles of nearly equal size.
inline int64_t TileCount(int64_t tokens, int tile) { return (tokens + tile - 1) / tile; }
inline TokenTile TileAt(int64_t tokens, int64_t tiles, int64_t index) {
  const int64_t first = tokens * index / tiles;
  return {first, static_cast<int>(tokens * (index + 1) / tiles - first)};
}

// Tiles lie one after the other: all data of tile t starts at t.first tokens' worth.
class PreparedActivations {
 public:
  // Sizes the buffers; they only ever grow.
  void Reset(const ActivationFormat& format, int64_t tokens);
  // Converts token `token`, whose `columns.cols` values are at `row`. `scratch` is the caller's, of
  // at least ScratchFloats(). Different tokens may be stored by different threads.
  void Store(const KernelTable& kernels, int64_t token, const float* row, float* scratch);
  // What the sums of a token are divided by at last.
  void SetDivisor(int64_t token, float divisor) { divisor_[static_cast<size_t>(token)] = divisor; }
  float divisor(int64_t token) const { return divisor_[static_cast<size_t>(token)]; }
  // Points the tile's activation members at tile `index`.
  void Point(int64_t index, IntTile& tile) const;
  void Point(int64_t index, FloatTile& tile) const;

  const ActivationFormat& format() const { return format_; }
  int64_t tiles() const { return tiles_; }
  TokenTile tile(int64_t index) const { return TileAt(tokens_, tiles_, index); }
  static int64_t ScratchFloats(const ColumnPlan& columns);

 private:
  // The largest i with floor(tokens i / tiles) <= token.
  TokenTile TileOf(int64_t token) const { return tile(((token + 1) * tiles_ - 1) / tokens_); }
  void StoreInt16(const KernelTable& kernels, int64_t token, const float* row, float* scratch);
  void StoreFloats(const KernelTable& kernels, int64_t token, const float* row, float* scratch);

  ActivationFormat format_;
  int64_t tokens_ = 0;
  int64_t tiles_ = 0;
  int64_t blocks_ = 0;
  std::vector<std::byte> data_;
  std::vector<float> divisor_;  // a token
  std::vector<float> scale_;    // kInt16
  std::vector<int32_t> start_;  // kInt16, kConstant
  std::vector<float> sum_;      // kInt16, kZero and kOffset
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_ACTIVATIONS_H_

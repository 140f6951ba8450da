// Chooses the cheapest representation of a weight and writes it as weights.cl reads it.
#ifndef QUANTD_KERNELS_OPENCL_PACK_H_
#define QUANTD_KERNELS_OPENCL_PACK_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

#include "core/status.h"
#include "kernels/backend.h"
#include "kernels/opencl/format.h"

namespace quantd::opencl {

// A matrix in host memory, ready to be copied to the device.
struct PartImage {
  WeightFormat format;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t chunks_per_row = 0;
  int64_t blocks_per_row = 0;
  std::span<const std::byte> chunks;  // [rows, chunks_per_row]: `owned`, or the weight's own bytes
  std::vector<std::byte> owned;
  std::vector<std::byte> scales;  // per block
  std::vector<std::byte> zeros;   // per block, or empty
};
// A copy's `chunks` would point into the original.
static_assert(std::is_nothrow_move_constructible_v<PartImage>);

// How block scales are stored: in the narrowest type that holds them all, or in float32. Decoding a
// float16 scale for every eight weights halves the speed of a CPU (int4, groups of 64), while GPUs
// wait for memory.
enum class ScaleWidth { kNarrow, kFloat32 };

// What the image multiplies by is Dequantize(weight) with its columns in the order of the codes, as
// on the CPU: permutation, channel scale and rotation of the input are the caller's.
//
// kFast keeps codes of up to 8 bits on uniform and table grids when blocks are tiles (or flat
// blocks that divide a row, or are divided by it) and that is smaller than two bytes per weight; it
// does not round to `dequantized_dtype`. Anything else, and all of kExact, is dense: in
// `dequantized_dtype` where that is exact (bfloat16, float16), else float32 (kExact) or float16
// (kFast, while no weight exceeds its range). The image may borrow from `weight`. INVALID_ARGUMENT
// when `weight` is inconsistent, UNIMPLEMENTED when a dimension exceeds 2^31 - 64.
absl::StatusOr<PartImage> PackPart(const Weight& weight, Compute compute,
                                   ScaleWidth scale_width = ScaleWidth::kNarrow);

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_PACK_H_

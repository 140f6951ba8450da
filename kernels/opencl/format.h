// How one matrix lies in device memory: what weights.cl must be told at build time and at launch.
#ifndef QUANTD_KERNELS_OPENCL_FORMAT_H_
#define QUANTD_KERNELS_OPENCL_FORMAT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace quantd::opencl {

// Values are those of STORAGE, SCALE_STORAGE and ZERO_STORAGE in weights.cl.
enum class Storage { kF32 = 0, kBF16 = 1, kF16 = 2, kCodes = 3 };
enum class ZeroStorage { kConstant = 0, kByte = 1, kMinimum = 2 };

// Parts whose formats are equal can be stacked into one matrix.
struct WeightFormat {
  Storage storage = Storage::kF32;
  // The rest is for kCodes.
  int code_bits = 8;  // as stored: 2, 4 or 8
  int group = 0;      // columns per block; 0: the whole row
  int64_t tile_rows = 1;
  Storage scale_storage = Storage::kF32;
  ZeroStorage zero_storage = ZeroStorage::kConstant;
  float center = 0;  // the zero of ZeroStorage::kConstant
  float post_scale = 1;
  std::vector<float> table = {};  // 2^code_bits values, or empty for a uniform grid

  bool operator==(const WeightFormat&) const = default;
};

Layout LayoutOf(const WeightFormat& format);
// "-DSTORAGE=3 -DCODE_BITS=4 ..." for weights.cl.
std::string DefinesOf(const WeightFormat& format);
// Bytes of a chunk of eight columns.
int ChunkBytes(const WeightFormat& format);

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_FORMAT_H_

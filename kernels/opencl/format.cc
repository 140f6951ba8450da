#include "kernels/opencl/format.h"

#include "absl/strings/str_cat.h"

namespace quantd::opencl {

Layout LayoutOf(const WeightFormat& format) {
  if (format.storage != Storage::kCodes) return Layout::kDense;
  if (!format.table.empty()) return format.code_bits == 8 ? Layout::kFp8 : Layout::kLut4;
  const bool row = format.code_bits == 8 && format.group == 0 && format.tile_rows == 1;
  return row ? Layout::kInt8Row : Layout::kIntGroup;
}

std::string DefinesOf(const WeightFormat& format) {
  if (format.storage != Storage::kCodes) {
    return absl::StrCat("-DSTORAGE=", static_cast<int>(format.storage));
  }
  return absl::StrCat("-DSTORAGE=3 -DCODE_BITS=", format.code_bits, " -DGROUP=", format.group,
                      " -DTILE_ROWS=", format.tile_rows,
                      " -DSCALE_STORAGE=", static_cast<int>(format.scale_storage),
                      " -DZERO_STORAGE=", static_cast<int>(format.zero_storage),
                      " -DTABLE=", format.table.empty() ? 0 : 1);
}

int ChunkBytes(const WeightFormat& format) {
  switch (format.storage) {
    case Storage::kF32:
      return 32;
    case Storage::kBF16:
    case Storage::kF16:
      return 16;
    case Storage::kCodes:
      return format.code_bits;
  }
  return 32;
}

}  // namespace quantd::opencl

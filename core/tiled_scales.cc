#include "core/tiled_scales.h"

#include "core/float_types.h"

namespace quantd {

void FillTiledScales(QuantizedTensor* tensor) {
  const NestedScales& nested = *tensor->nested;
  const DType dtype = tensor->dequantized_dtype;
  const auto blocks = static_cast<int64_t>(nested.scale_codes.size());
  const int64_t cols = tensor->block_columns();
  tensor->scale.resize(blocks);
  tensor->zero_point.resize(blocks);
  const auto decode = [dtype](float super, uint8_t code, float zero) {
    return RoundTo(dtype, super * RoundTo(dtype, static_cast<float>(code) - zero));
  };
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t tile = block / cols / nested.super_rows * cols + block % cols;
    tensor->scale[block] =
        decode(nested.super_scale[tile], nested.scale_codes[block], nested.scale_zero[tile]);
    tensor->zero_point[block] =
        decode(nested.super_offset[tile], nested.offset_codes[block], nested.offset_zero[tile]);
  }
}

}  // namespace quantd

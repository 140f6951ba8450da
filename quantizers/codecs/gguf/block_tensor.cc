#include "quantizers/codecs/gguf/block_tensor.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace quantd::gguf {

const BlockFormat* FindBlockFormat(GgmlType type) {
  for (const auto formats : {SimpleBlockFormats(), KQuantBlockFormats(), LatticeBlockFormats()}) {
    for (const BlockFormat& format : formats) {
      if (format.type == type) return &format;
    }
  }
  return nullptr;
}

absl::StatusOr<int64_t> RowsInBlocks(const BlockFormat& format, const Shape& shape) {
  if (shape.empty() || shape.back() <= 0 || shape.back() % format.elements != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rows of ", ToString(shape), " are no whole number of ", format.name,
                     " blocks, which hold ", format.elements, " elements"));
  }
  return NumElements(shape) / shape.back();
}

QuantizedTensor EmptyTensor(const BlockFormat& format, int64_t rows, int64_t cols) {
  QuantizedTensor tensor;
  tensor.rows = rows;
  tensor.cols = cols;
  tensor.grid = format.grid();
  tensor.block.cols = format.scale_block;
  tensor.scale_dtype = format.scale_dtype;
  const int64_t blocks = rows * cols / format.elements;
  const int64_t scales = rows * cols / format.scale_block;
  tensor.codes.resize(rows * cols);
  tensor.scale.resize(scales);
  if (format.has_offset) tensor.offset.resize(scales);
  if (!format.nested) return tensor;
  NestedScales nested;
  nested.super_size = format.elements / format.scale_block;
  nested.scale_codes.resize(scales);
  nested.super_scale.resize(blocks);
  if (format.has_offset) {
    nested.offset_codes.resize(scales);
    nested.super_offset.resize(blocks);
  }
  if (format.scale_table != nullptr) {
    nested.code_table.assign(format.scale_table, format.scale_table + format.scale_codes);
  }
  tensor.nested = std::move(nested);
  return tensor;
}

void FillScales(const BlockFormat& format, int64_t b, QuantizedTensor& tensor) {
  const NestedScales& nested = *tensor.nested;
  const int64_t scales = format.elements / format.scale_block;
  for (int64_t i = b * scales; i < (b + 1) * scales; ++i) {
    const uint8_t code = nested.scale_codes[i];
    const float factor =
        format.scale_table != nullptr ? format.scale_table[code] : static_cast<float>(code);
    tensor.scale[i] = nested.super_scale[b] * factor;
    if (!format.has_offset) continue;
    tensor.offset[i] = -(nested.super_offset[b] * static_cast<float>(nested.offset_codes[i]));
  }
}

bool HasFiniteScale(const BlockFormat& format, const Parts& parts) {
  return std::isfinite(*parts.scale) && (!format.has_offset || std::isfinite(*parts.offset));
}

}  // namespace quantd::gguf

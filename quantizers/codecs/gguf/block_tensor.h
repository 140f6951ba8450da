// A QuantizedTensor that holds GGUF blocks, and where a block's parts lie in it.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_TENSOR_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_TENSOR_H_

#include "core/status.h"
#include "quantizers/codecs/gguf/block_format.h"

namespace quantd::gguf {

// Rows of `shape` when every row is a whole number of blocks, else INVALID_ARGUMENT.
absl::StatusOr<int64_t> RowsInBlocks(const BlockFormat& format, const Shape& shape);

// All vectors sized for [rows, cols], values zero.
QuantizedTensor EmptyTensor(const BlockFormat& format, int64_t rows, int64_t cols);

// Where block `b` has its parts in the tensor's vectors. `nested` is the tensor's, or null.
template <class P, class Nested, class Tensor>
P PartsAt(const BlockFormat& format, Tensor& tensor, Nested* nested, int64_t b) {
  P parts;
  const int64_t scales = format.elements / format.scale_block;
  parts.codes = tensor.codes.data() + b * format.elements;
  if (nested != nullptr) {
    parts.scale_codes = nested->scale_codes.data() + b * scales;
    parts.scale = nested->super_scale.data() + b;
    if (format.has_offset) {
      parts.offset_codes = nested->offset_codes.data() + b * scales;
      parts.offset = nested->super_offset.data() + b;
    }
  } else {
    parts.scale = tensor.scale.data() + b;
    if (format.has_offset) parts.offset = tensor.offset.data() + b;
  }
  return parts;
}

// Effective scales of block `b` from its nested ones.
void FillScales(const BlockFormat& format, int64_t b, QuantizedTensor& tensor);

// Whether the scale (and offset) of a block are finite numbers.
bool HasFiniteScale(const BlockFormat& format, const Parts& parts);

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_BLOCK_TENSOR_H_

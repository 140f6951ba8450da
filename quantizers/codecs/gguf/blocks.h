// GGUF block types: blocks <-> QuantizedTensor. Source: ggml-quants.c of ggml 0.25.3.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_BLOCKS_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_BLOCKS_H_

#include <memory>
#include <optional>
#include <vector>

#include "formats/gguf/gguf.h"
#include "kernels/backend.h"
#include "quantizers/scheme.h"

namespace quantd {

// The type of single elements; nullopt for blocks.
std::optional<DType> PlainDTypeOf(GgmlType type);

// The tensor that `blocks` of `type` hold: a plain tensor for F32, F16, BF16 and F64, else a
// QuantizedTensor whose Dequantize() is bit-exact to ggml's. UNIMPLEMENTED names an unsupported
// type.
absl::StatusOr<Weight> DecodeGgufBlocks(GgmlType type, const Shape& shape,
                                        std::span<const std::byte> blocks);

// Moves the rows of blocks that DecodeGgufBlocks kept as they were spelled, as ReorderRows moved
// those of `tensor`.
void ReorderStoredBlocks(const std::vector<int64_t>& order, QuantizedTensor& tensor);

// The blocks of a matrix that was quantized by SchemeForGgmlType(type) or decoded from that type.
absl::StatusOr<std::vector<std::byte>> EncodeGgufBlocks(GgmlType type,
                                                        const QuantizedTensor& weight);

// ggml's reference quantizer of a block type (quantize_row_*_ref; with importance the _impl
// functions). Never freed. UNIMPLEMENTED for types that cannot be quantized to.
absl::StatusOr<const Scheme*> SchemeForGgmlType(GgmlType type);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_BLOCKS_H_

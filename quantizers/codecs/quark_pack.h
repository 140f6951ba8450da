// How Quark packs integer codes (amd-quark 0.13, torch/utils/pack.py).
#ifndef QUANTD_QUANTIZERS_CODECS_QUARK_PACK_H_
#define QUANTD_QUANTIZERS_CODECS_QUARK_PACK_H_

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "quantizers/codecs/quark_config.h"

namespace quantd {

// Codes that must lie in a row together: 8 of 4 or 3 bits, 4 of uint2.
int QuarkCodesPerItem(const QuarkSpec& spec);
// Elements of `spec.stored_dtype` that a row of `count` codes takes.
int64_t QuarkPackedWidth(const QuarkSpec& spec, int64_t count);

// Integer values as stored: packed along the last dimension; one value alone is stored as it is.
Tensor PackQuark(const QuarkSpec& spec, bool reorder, const std::vector<int32_t>& values,
                 Shape shape);
// The reverse: `shape` is that of the values; the stored tensor has been checked.
std::vector<int32_t> UnpackQuark(const QuarkSpec& spec, bool reorder, const Tensor& stored,
                                 const Shape& shape);
// The stored shape of values of this shape.
Shape QuarkStoredShape(const QuarkSpec& spec, Shape shape);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUARK_PACK_H_

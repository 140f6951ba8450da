// What torchao 0.18 writes about every parameter in a safetensors header (prototype/safetensors/
// safetensors_utils.py): class, attributes and parts, as JSON text. Its loader rebuilds tensors
// from it and refuses files without.
#ifndef QUANTD_QUANTIZERS_CODECS_TORCHAO_HEADER_H_
#define QUANTD_QUANTIZERS_CODECS_TORCHAO_HEADER_H_

#include <string>
#include <vector>

#include "core/tensor.h"
#include "quantizers/codecs/codec.h"
#include "quantizers/codecs/torchao_config.h"

namespace quantd {

// Rows and columns of `scheme`'s blocks in a matrix of this shape.
Shape TorchAoBlockSize(const AoScheme& scheme, const Shape& shape);

// The text of a weight of this shape and dtype.
std::string TorchAoWeightText(const AoScheme& scheme, const Shape& shape, DType dtype);
// The text of a tensor that is stored as it is.
std::string TorchAoPlainText();
// The text under "tensor_names".
std::string TorchAoNamesText(const std::vector<WrittenParameter>& parameters);

// The dtype that a header's text gives to a weight of `scheme` and `shape`; `fallback` when it
// names none or is empty. INVALID_ARGUMENT with `where` when the text describes another tensor.
absl::StatusOr<DType> CheckTorchAoText(const std::string& text, const AoScheme& scheme,
                                       const Shape& shape, DType fallback, absl::string_view where);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_TORCHAO_HEADER_H_

// The quantization_config of a single GGUF matrix outside a file:
// {"quant_method": "gguf", "type": "Q4_K", "shape": [out, in]}.
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_MATRIX_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_MATRIX_CONFIG_H_

#include <optional>
#include <string>

#include "core/status.h"
#include "core/tensor.h"
#include "formats/gguf/gguf.h"

namespace quantd {

struct GgufMatrixConfig {
  GgmlType type = GgmlType::kF32;
  Shape shape;
};

// nullopt when the config is of another quant_method; INVALID_ARGUMENT when it is broken.
absl::StatusOr<std::optional<GgufMatrixConfig>> ParseGgufMatrixConfig(const std::string& json);
std::string WriteGgufMatrixConfig(const GgufMatrixConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_MATRIX_CONFIG_H_

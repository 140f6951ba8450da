// What all quantization_config documents have in common.
#ifndef QUANTD_QUANTIZERS_CODECS_QUANTIZATION_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_QUANTIZATION_CONFIG_H_

#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

// The quant_method that a quantization_config (JSON text) selects, by Transformers' rule:
// load_in_8bit or load_in_4bit mean "bitsandbytes" whatever quant_method says. INVALID_ARGUMENT
// when there is none.
absl::StatusOr<std::string> QuantMethodOf(const std::string& json);

// The quantization_config in a document of upstream's (JSON text): itself, the one in a model's
// config.json, or what a file means that names no quant_method and is told by its keys:
// quanto_qmap.json, AutoGPTQ's quantize_config.json, AutoAWQ's quant_config.json.
absl::StatusOr<std::string> QuantizationConfigIn(const std::string& json);

// INVALID_ARGUMENT naming a pattern of the list `key` that RE2 refuses or that is too large.
absl::Status CheckSkipPatterns(const std::vector<std::string>& patterns, absl::string_view key);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_QUANTIZATION_CONFIG_H_

// Parsing of compressed-tensors' QuantizationArgs. Private to the config's implementation.
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_ARGS_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_ARGS_H_

#include <string>

#include "nlohmann/json_fwd.hpp"
#include "quantizers/codecs/compressed_tensors_config.h"

namespace quantd {

// Checked as pydantic checks it upstream: unknown keys, types, ranges and contradictions between
// strategy, group_size and block_structure are INVALID_ARGUMENT naming `where`.
absl::StatusOr<CtArgs> ParseCtArgs(const nlohmann::json& value, const std::string& where);

// Whether weights can be stored as `args` say at all, whatever the format.
absl::Status CheckCtWeights(const CtArgs& args, const std::string& where);

// The format that upstream infers (compressors/format.py).
CtFormat InferCtFormat(const CtArgs& weights, bool has_input_activations);
// INVALID_ARGUMENT when `format` cannot hold weights of `args`.
absl::Status CheckCtFormat(CtFormat format, const CtArgs& args, const std::string& where);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_ARGS_H_

// Rotary positions as config.json says them.
#ifndef QUANTD_FORMATS_HUGGINGFACE_ROPE_CONFIG_H_
#define QUANTD_FORMATS_HUGGINGFACE_ROPE_CONFIG_H_

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

#include "core/status.h"
#include "formats/model_config.h"

namespace quantd {

// Reads rope_theta, rope_scaling or rope_parameters, and partial_rotary_factor of `json`, a whole
// config.json, into `config`, which has its architecture and its head_dim. INVALID_ARGUMENT and
// UNIMPLEMENTED name the key.
absl::Status ParseRope(const nlohmann::json& json, ModelConfig* config);

// The rules of a decoder's rotary positions, whatever file they come from.
absl::Status CheckRope(const ModelConfig& config);

// What multiplies cosines and sines in a context that is `factor` times the original one, where
// nothing else is said (transformers 5.23, modeling_rope_utils.py: longrope).
double LongRopeAttentionFactor(double factor, int64_t original_max_positions);

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_ROPE_CONFIG_H_

// Rotary position embedding tables.
#ifndef QUANTD_MODELS_ARCHITECTURES_ROPE_H_
#define QUANTD_MODELS_ARCHITECTURES_ROPE_H_

#include <cstdint>
#include <vector>

#include "formats/model_config.h"

namespace quantd {

// Radians per position of each of the head_dim/2 pairs: theta^(-2i/head_dim), scaled as
// `config.rope_scaling` says (transformers 4.57, modeling_rope_utils.py: default, linear, llama3;
// or GGUF's explicit divisors, which replace the rest).
std::vector<double> RopeFrequencies(const ModelConfig& config);

// [positions, head_dim]: head_dim/2 cosines, then head_dim/2 sines, computed in double. The layout
// of AttentionArgs::rope.
std::vector<float> RopeTable(const ModelConfig& config, int64_t positions);

}  // namespace quantd

#endif  // QUANTD_MODELS_ARCHITECTURES_ROPE_H_

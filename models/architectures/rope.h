// Rotary position embedding tables.
#ifndef QUANTD_MODELS_ARCHITECTURES_ROPE_H_
#define QUANTD_MODELS_ARCHITECTURES_ROPE_H_

#include <cstdint>
#include <vector>

#include "formats/model_config.h"

namespace quantd {

// Radians per position of each of the rotary_dims/2 pairs: theta^(-2i/rotary_dims), scaled as
// `config.rope_scaling` says (transformers 5.23, modeling_rope_utils.py: default, linear, llama3,
// longrope; or GGUF's explicit divisors, which replace the rest). longrope's are those of contexts
// of so many `positions`.
std::vector<double> RopeFrequencies(const ModelConfig& config, int64_t positions);

// [positions, rotary_dims]: rotary_dims/2 cosines, then as many sines, computed in double. The
// layout of AttentionArgs::rope. A context beyond longrope's original length takes the long factors
// from its first position on, as llama.cpp and vLLM do; Transformers changes over where a sequence
// grows beyond that length, whose keys so far are then of the wrong rotation.
std::vector<float> RopeTable(const ModelConfig& config, int64_t positions);

}  // namespace quantd

#endif  // QUANTD_MODELS_ARCHITECTURES_ROPE_H_

// Names under which compressed-tensors (quantization/lifecycle/initialize.py, 0.20.0) stores the
// scales of a KV cache with a static kv_cache_scheme, and of attention with quantized queries.
#ifndef QUANTD_FORMATS_HUGGINGFACE_QUANTIZED_CACHE_H_
#define QUANTD_FORMATS_HUGGINGFACE_QUANTIZED_CACHE_H_

#include <array>

#include "absl/strings/string_view.h"

namespace quantd {

// Ends of full names: "model.layers.0.self_attn.k_scale".
inline constexpr std::array<absl::string_view, 6> kQuantizedCacheParameters = {
    ".self_attn.q_scale",      ".self_attn.k_scale",      ".self_attn.v_scale",
    ".self_attn.q_zero_point", ".self_attn.k_zero_point", ".self_attn.v_zero_point"};

}  // namespace quantd

#endif  // QUANTD_FORMATS_HUGGINGFACE_QUANTIZED_CACHE_H_

// The model families that config.json may name; one row each.
#ifndef QUANTD_FORMATS_ARCHITECTURES_H_
#define QUANTD_FORMATS_ARCHITECTURES_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace quantd {

// Defaults are those of the configuration classes of transformers 5.23.
struct ArchitectureInfo {
  absl::string_view architecture;  // transformers class
  absl::string_view model_type;
  bool is_encoder;
  bool qkv_bias;             // always on, whatever attention_bias says
  int64_t default_kv_heads;  // when the key is missing; 0: as many as heads
  double default_norm_eps;
  int64_t default_head_dim = 0;    // when the key is missing; 0: hidden_size over heads
  bool fused_projections = false;  // ModelConfig
  bool qk_norm = false;            // ModelConfig
};

// nullptr when unknown.
const ArchitectureInfo* FindArchitecture(absl::string_view architecture);
const ArchitectureInfo* FindModelType(absl::string_view model_type);
// "LlamaForCausalLM, ..." for messages.
std::string KnownArchitectures();

}  // namespace quantd

#endif  // QUANTD_FORMATS_ARCHITECTURES_H_

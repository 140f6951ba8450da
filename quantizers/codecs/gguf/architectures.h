// The architectures that both Hugging Face and GGUF spell, and their parameter names. One row each.
// Source: gguf-py's tensor_mapping.py 0.19 and convert_hf_to_gguf.py of llama.cpp (ggml 0.25.3).
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_ARCHITECTURES_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_ARCHITECTURES_H_

#include <array>
#include <span>

#include "absl/strings/string_view.h"
#include "formats/model_config.h"

namespace quantd::gguf {

// One module: "{}" stands for the layer. Its parameters are `weight` and possibly `bias`.
struct ModuleNames {
  absl::string_view hf;
  absl::string_view gguf;
};

struct Architecture {
  absl::string_view gguf;        // general.architecture
  absl::string_view model_type;  // of config.json
  absl::string_view hf_class;
  bool permutes_qk;  // rotary halves are interleaved in GGUF
  bool is_encoder;
  std::array<std::span<const ModuleNames>, 3> modules;
};

// The first row of a GGUF name is the default reading. nullptr when unknown.
const Architecture* FindArchitecture(absl::string_view gguf_name);
const Architecture* ArchitectureOf(const ModelConfig& config);
// "llama, qwen2, ...", for messages.
std::string KnownArchitectures();

}  // namespace quantd::gguf

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_ARCHITECTURES_H_

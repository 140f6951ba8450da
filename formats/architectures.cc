#include "formats/architectures.h"

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

constexpr ArchitectureInfo kArchitectures[] = {
    {"LlamaForCausalLM", "llama", false, false, 0, 1e-6},
    {"MistralForCausalLM", "mistral", false, false, 8, 1e-6},
    {"Qwen2ForCausalLM", "qwen2", false, true, 32, 1e-6},
    {"Qwen3ForCausalLM", "qwen3", false, false, 32, 1e-6, 128, false, true},
    {"Phi3ForCausalLM", "phi3", false, false, 0, 1e-5, 0, true, false},
    {"BertModel", "bert", true, true, 0, 1e-12},
};

}  // namespace

const ArchitectureInfo* FindArchitecture(absl::string_view architecture) {
  for (const ArchitectureInfo& info : kArchitectures) {
    if (info.architecture == architecture) return &info;
  }
  return nullptr;
}

const ArchitectureInfo* FindModelType(absl::string_view model_type) {
  for (const ArchitectureInfo& info : kArchitectures) {
    if (info.model_type == model_type) return &info;
  }
  return nullptr;
}

std::string KnownArchitectures() {
  std::string names;
  for (const ArchitectureInfo& info : kArchitectures) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", info.architecture);
  }
  return names;
}

}  // namespace quantd

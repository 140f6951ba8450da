#include "quantizers/codecs/compressed_tensors_presets.h"

#include "absl/strings/ascii.h"

namespace quantd {
namespace {

#define INT8_TOKENS R"("input_activations": {"num_bits": 8, "strategy": "token", "dynamic": true})"
#define FP8_TOKENS \
  R"("input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true})"
#define NVFP4_WEIGHTS                                                                            \
  R"("weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,)" \
  R"( "scale_dtype": "torch.float8_e4m3fn"})"
#define MX_GROUPS(bits)                                                                   \
  R"({"num_bits": )" #bits R"(, "type": "float", "strategy": "group", "group_size": 32,)" \
  R"( "scale_dtype": "torch.uint8")"

constexpr CtPreset kPresets[] = {
    {"UNQUANTIZED", "{}"},
    {"W8A16", R"({"weights": {"num_bits": 8, "strategy": "channel"}})"},
    {"W4A16", R"({"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}})"},
    {"W4A16_ASYM",
     R"({"weights": {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": false}})"},
    {"W8A8", R"({"weights": {"num_bits": 8, "strategy": "channel"}, )" INT8_TOKENS "}"},
    {"INT8", R"({"weights": {"num_bits": 8, "strategy": "channel"}, )" INT8_TOKENS "}"},
    {"W4A8",
     R"({"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}, )" INT8_TOKENS "}"},
    {"W4AFP8",
     R"({"weights": {"num_bits": 4, "strategy": "group", "group_size": 128}, )" FP8_TOKENS "}"},
    {"FP8", R"({"weights": {"num_bits": 8, "type": "float", "strategy": "tensor"},)"
            R"( "input_activations": {"num_bits": 8, "type": "float", "strategy": "tensor"}})"},
    {"FP8_DYNAMIC",
     R"({"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}, )" FP8_TOKENS "}"},
    {"FP8_BLOCK", R"({"weights": {"num_bits": 8, "type": "float", "strategy": "block",)"
                  R"( "block_structure": [128, 128]}, "input_activations": {"num_bits": 8,)"
                  R"( "type": "float", "strategy": "group", "group_size": 128, "dynamic": true}})"},
    {"NVFP4A16", "{" NVFP4_WEIGHTS "}"},
    {"NVFP4", "{" NVFP4_WEIGHTS R"(, "input_activations": {"num_bits": 4, "type": "float",)"
              R"( "strategy": "tensor_group", "group_size": 16, "dynamic": "local",)"
              R"( "observer": "static_minmax", "scale_dtype": "torch.float8_e4m3fn"}})"},
    {"MXFP4A16", R"({"weights": )" MX_GROUPS(4) "}}"},
    {"MXFP4", R"({"weights": )" MX_GROUPS(4) R"(}, "input_activations": )" MX_GROUPS(
                  4) R"(, "dynamic": true}})"},
    {"MXFP6A16", R"({"weights": )" MX_GROUPS(6) "}}"},
    {"MXFP8A16", R"({"weights": )" MX_GROUPS(8) "}}"},
    {"MXFP8", R"({"weights": )" MX_GROUPS(8) R"(}, "input_activations": )" MX_GROUPS(
                  8) R"(, "dynamic": true}})"},
};

#undef INT8_TOKENS
#undef FP8_TOKENS
#undef NVFP4_WEIGHTS
#undef MX_GROUPS

}  // namespace

const CtPreset* FindCtPreset(absl::string_view name) {
  const std::string upper = absl::AsciiStrToUpper(name.substr(0, 64));
  for (const CtPreset& preset : kPresets) {
    if (upper == preset.name) return &preset;
  }
  return nullptr;
}

const std::vector<std::string>& CtPresetNames() {
  static const auto* names = [] {
    auto* list = new std::vector<std::string>;
    for (const CtPreset& preset : kPresets) list->push_back(preset.name);
    return list;
  }();
  return *names;
}

}  // namespace quantd

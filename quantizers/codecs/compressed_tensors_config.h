// compressed-tensors' quantization_config (compressed-tensors 0.20: QuantizationConfig,
// QuantizationScheme, QuantizationArgs and the preset schemes).
#ifndef QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "core/quantized_tensor.h"
#include "core/status.h"
#include "quantizers/codecs/module_matcher.h"

namespace quantd {

// The release whose format we write, as the `version` key says it.
inline constexpr char kCompressedTensorsVersion[] = "0.20.0";

// The scale types of 4-, 6- and 8-bit float weights.
inline constexpr int64_t kNvfp4Group = 16;
inline constexpr int64_t kMxGroup = 32;

enum class CtStrategy { kTensor, kChannel, kGroup, kTensorGroup, kBlock, kToken, kAttentionHead };
absl::string_view NameOf(CtStrategy strategy);

// QuantizationArgs: how one tensor of a module is quantized.
struct CtArgs {
  int num_bits = 8;
  bool is_float = false;
  bool symmetric = true;
  CtStrategy strategy = CtStrategy::kTensor;
  int64_t group_size = 0;  // kGroup, kTensorGroup
  int64_t block_rows = 0;  // kBlock
  int64_t block_cols = 0;
  bool is_static = true;  // dynamic: false; "local" counts as static, it needs a global scale
  bool is_local = false;  // dynamic: "local"
  bool is_grouped_by_activation =
      false;                         // actorder "group": columns belong to groups by weight_g_idx
  std::string scale_dtype;           // "" when unset, else "uint8", "float8_e4m3fn"
  std::string observer;              // "" when unset, else as "minmax"
  double averaging_constant = 0.01;  // of observer_kwargs
  std::string json;                  // the object as upstream writes it

  BlockShape block() const;
};

enum class CtFormat {
  kPackQuantized,
  kIntQuantized,
  kFloatQuantized,
  kNaiveQuantized,
  kNvfp4Pack,
  kMxfp4Pack,
  kMxfp6Pack,
  kMxfp8,
};
absl::string_view NameOf(CtFormat format);

// QuantizationScheme: a group of modules and what is done to them.
struct CtGroup {
  std::string name;  // "group_0"
  ModuleMatcher targets;
  std::optional<CtArgs> weights;  // unset: the weights stay as they are
  CtFormat format = CtFormat::kPackQuantized;
  std::optional<CtArgs> inputs;  // input_activations
  bool has_static_outputs = false;
  std::string output_activations;  // JSON as upstream writes it, "null" when unset

  bool has_static_inputs() const { return inputs && inputs->is_static; }
};

struct CtConfig {
  std::vector<CtGroup> groups;
  ModuleMatcher ignore;
  std::string kv_cache_scheme = "null";  // JSON
  bool has_static_kv_cache = false;
  std::string version;  // of the library that wrote the checkpoint, "" when unknown

  // The group a module belongs to, nullptr when it is ignored or not targeted. The most specific
  // target wins: name, then pattern, then class; among equals the first group.
  const CtGroup* GroupOf(absl::string_view module, absl::string_view class_name) const;
};

// INVALID_ARGUMENT names the key, found and expected; UNIMPLEMENTED the legacy sparse formats and
// transforms. Unknown keys are refused inside schemes and ignored at the top, as upstream does.
absl::StatusOr<CtConfig> ParseCtConfig(const std::string& json);

// The document that upstream's ModelCompressor.update_config writes.
std::string WriteCtConfig(const CtConfig& config);

// What the method's options say, as a quantization_config for ParseCtConfig. `scheme` is a preset
// name ("W4A16") or "", then `weights` applies.
struct CtRequest {
  std::string scheme;
  int64_t num_bits = 4;
  std::string type = "int";
  bool symmetric = true;
  std::string strategy;         // "" infers it from group_size
  int64_t group_size = 0;       // 0: unset
  std::string block_structure;  // "128x128", "" when unset
  std::string scale_dtype;      // "uint8" for MX formats, "" when unset
  std::string format;           // "" infers it
  std::string activations;      // "static", "dynamic" or "none" in place of the scheme's
  std::string observer;         // of static activations; "" when unset
  std::vector<std::string> targets;
  std::vector<std::string> ignore;
};
std::string CtRequestJson(const CtRequest& request);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_COMPRESSED_TENSORS_CONFIG_H_

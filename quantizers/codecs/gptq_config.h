// The quantization_config of GPTQ checkpoints: GPTQModel 7.7, AutoGPTQ 0.7.1 (which also keeps it
// in quantize_config.json) and Transformers 5.23 (GPTQConfig).
#ifndef QUANTD_QUANTIZERS_CODECS_GPTQ_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_GPTQ_CONFIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "re2/re2.h"

namespace quantd {

// How the tensors of a Linear are laid out. v1 stores zero points minus one, v2 and planar as they
// are; Marlin files hold neither zero points nor group indexes.
enum class GptqFormat { kV1, kV2, kPlanar, kMarlin };

absl::string_view NameOf(GptqFormat format);  // "gptq", "gptq_v2", "gptq_p", "marlin"
std::optional<GptqFormat> GptqFormatNamed(absl::string_view name);

// What may differ from module to module.
struct GptqParameters {
  int bits = 4;
  int64_t group_size = 128;  // -1: whole rows
  bool desc_act = false;
  bool sym = true;
  // Of the solver.
  bool static_groups = false;
  bool act_group_aware = true;
  double damp_percent = 0.05;
  double damp_auto_increment = 0.01;
  double mse = 0;

  int64_t GroupSize(int64_t cols) const {
    return group_size <= 0 || group_size > cols ? cols : group_size;
  }
};

// A rule of `dynamic`. Patterns match from the start of a module's full name.
struct GptqRule {
  std::string key;  // as written, with its prefix "+:" or "-:" if there is one
  bool keeps = false;
  std::shared_ptr<const RE2> pattern;
  std::string overrides;  // JSON text of an object
};

struct GptqConfig {
  GptqParameters parameters;
  GptqFormat format = GptqFormat::kV1;
  bool lm_head = false;
  bool true_sequential = true;
  // Whether modules that saw next to no tokens are rounded to nearest instead of refused, and
  // below which share of all tokens that is.
  bool fallback = true;
  double fallback_share = 0.005;
  std::vector<GptqRule> dynamic;
  // Transformers' modules_in_block_to_quantize, flattened: ends of names; empty: all.
  std::vector<std::string> modules_in_block;
  // Transformers' block_name_to_quantize; empty: where it looks in decoders by itself.
  std::string block_name;
  // The writer subtracts one from whole words of zero points, not from fields (GPTQModel).
  bool word_zeros = false;

  // The rule of `dynamic` for a module, null when there is none. Negative ones are asked first,
  // then the first positive one that matches counts.
  const GptqRule* RuleFor(absl::string_view module) const;
  // The parameters of modules under `rule`, which does not keep them, or under none.
  GptqParameters ParametersUnder(const GptqRule* rule) const;
  // The parameters of a module; nullopt when a negative rule keeps it.
  std::optional<GptqParameters> Find(absl::string_view module) const;
};

// INVALID_ARGUMENT names the key, found and expected. Keys that do not change what the tensors mean
// are ignored, as upstream does. Absent keys take the defaults of the library whose keys are there.
absl::StatusOr<GptqConfig> ParseGptqConfig(const std::string& json);
// The text of AutoGPTQ's and GPTQModel's quantize_config.json as a quantization_config: old files
// do not say quant_method.
absl::StatusOr<std::string> GptqConfigOfFile(const std::string& json);
// The rules of `dynamic` (JSON text of an object), in their order.
absl::StatusOr<std::vector<GptqRule>> ParseGptqRules(const std::string& json);
// What GPTQModel adds for an output embedding that is to be quantized and that no rule names.
GptqRule GptqHeadRule();
// INVALID_ARGUMENT for widths, groups and formats that do not go together.
absl::Status CheckGptqConfig(const GptqConfig& config);
// Every key that says something about the checkpoint or how it came about, as GPTQModel writes it.
std::string WriteGptqConfig(const GptqConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GPTQ_CONFIG_H_

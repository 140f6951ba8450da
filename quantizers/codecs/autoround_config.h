// The quantization_config of auto-round 0.16 checkpoints (quant_method "auto-round", in old files
// "intel/auto-round"), and the configs of its auto_gptq and auto_awq exports.
#ifndef QUANTD_QUANTIZERS_CODECS_AUTOROUND_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_AUTOROUND_CONFIG_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "re2/re2.h"

namespace quantd {

// kGptq stores zero points less one, kPlain as they are; kAwq is AWQ's gemm layout.
enum class AutoRoundPacking { kGptq, kPlain, kAwq };

struct AutoRoundLayer {
  int bits = 4;              // 16 and more: not quantized
  int64_t group_size = 128;  // -1: whole rows
  bool sym = true;
  bool operator==(const AutoRoundLayer&) const = default;
};

// An entry of extra_config: a module's name, or a pattern that is found somewhere in it.
struct AutoRoundOverride {
  std::string name;
  std::shared_ptr<const RE2> pattern;  // null when `name` is no pattern
  std::optional<int> bits;
  std::optional<int64_t> group_size;
  std::optional<bool> sym;

  AutoRoundLayer Applied(AutoRoundLayer layer) const;
};

struct AutoRoundConfig {
  AutoRoundLayer layer;  // of modules that extra_config does not name
  AutoRoundPacking packing = AutoRoundPacking::kGptq;
  bool stores_group_index = false;  // g_idx, in the order of the columns
  std::vector<std::string> blocks;  // prefixes of module names; empty: not said
  std::vector<AutoRoundOverride> extra_config;

  // By a module's full name, else by the patterns. INVALID_ARGUMENT when two patterns that match
  // disagree: which of them counts depends on an order that JSON objects do not have.
  absl::StatusOr<AutoRoundLayer> LayerOf(absl::string_view module) const;
};

// INVALID_ARGUMENT names the key, found and expected. UNIMPLEMENTED for rotated weights, quantized
// activations and number formats other than integers.
absl::StatusOr<AutoRoundConfig> ParseAutoRoundConfig(const std::string& json);

// "auto_round:auto_gptq", ... as auto-round writes it.
std::string PackingFormatOf(const AutoRoundConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AUTOROUND_CONFIG_H_

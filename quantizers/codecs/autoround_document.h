// The quantization_config that auto-round writes: of a run's settings, and what it tells of them
// (auto_round/export of auto-round 0.16.1).
#ifndef QUANTD_QUANTIZERS_CODECS_AUTOROUND_DOCUMENT_H_
#define QUANTD_QUANTIZERS_CODECS_AUTOROUND_DOCUMENT_H_

#include <optional>
#include <string>

#include "quantizers/codecs/autoround_config.h"

namespace quantd {

// The checkpoints that auto-round exports to.
enum class AutoRoundFormat { kAutoRound, kAutoGptq, kAutoAwq };

struct AutoRoundExport {
  AutoRoundFormat format = AutoRoundFormat::kAutoRound;
  int64_t iters = 0;
  bool enable_quanted_input = true;
  std::string blocks;        // prefix of the modules that may be quantized
  std::string extra_config;  // JSON text as given, or empty
};

// JSON text with the keys that upstream writes.
std::string AutoRoundConfigText(const AutoRoundConfig& config, const AutoRoundExport& run);

// The config of a layer's settings and of upstream's `layer_config`, the JSON text of
// {"module or pattern": {"bits": 8}} or empty. INVALID_ARGUMENT names what is wrong.
absl::StatusOr<AutoRoundConfig> AutoRoundConfigOf(const AutoRoundLayer& layer,
                                                  const std::string& layer_config);

// What a config tells of the run that made it, beside ParseAutoRoundConfig.
struct AutoRoundRun {
  std::optional<int64_t> iters;
  std::optional<bool> enable_quanted_input;
  std::string extra_config;  // JSON text, or empty
};
// `json` is one that ParseAutoRoundConfig takes.
absl::StatusOr<AutoRoundRun> ParseAutoRoundRun(const std::string& json);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AUTOROUND_DOCUMENT_H_

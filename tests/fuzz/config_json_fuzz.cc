// Any text as config.json; what is accepted keeps the rules and can be written and read again.
#include <cstdint>

#include "formats/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  auto config = quantd::ParseHfConfig(text);
  if (!config.ok()) {
    if (absl::IsInternal(config.status()) || absl::IsUnknown(config.status())) __builtin_trap();
    return 0;
  }
  if (!quantd::CheckModelConfig(*config).ok()) __builtin_trap();
  (void)quantd::MergeGenerationConfig(text, &*config);
  for (const bool from_fields : {false, true}) {
    if (from_fields) config->config_json.clear();
    const auto written = quantd::WriteHfConfig(*config, "");
    if (!written.ok() || !quantd::ParseHfConfig(*written).ok()) __builtin_trap();
  }
  return 0;
}

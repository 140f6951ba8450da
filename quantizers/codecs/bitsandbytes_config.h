// bitsandbytes' quantization_config (Transformers 5.23, BitsAndBytesConfig).
#ifndef QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_CONFIG_H_

#include <optional>
#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

struct BitsAndBytesConfig {
  bool load_in_8bit = false;
  bool load_in_4bit = false;
  double llm_int8_threshold = 6.0;
  std::optional<std::vector<std::string>> llm_int8_skip_modules;  // unset: the automatic list
  bool llm_int8_enable_fp32_cpu_offload = false;
  bool llm_int8_has_fp16_weight = false;
  std::string bnb_4bit_quant_type = "fp4";
  bool bnb_4bit_use_double_quant = false;
  std::string bnb_4bit_compute_dtype = "float32";
  std::string bnb_4bit_quant_storage = "uint8";
};

// Unknown keys are ignored as upstream does. INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<BitsAndBytesConfig> ParseBitsAndBytesConfig(const std::string& json);
// What is wrong with the values together: both or neither of the widths, unknown dtypes, bad
// patterns.
absl::Status CheckBitsAndBytesConfig(const BitsAndBytesConfig& config);
// Every key, as Transformers writes it.
std::string WriteBitsAndBytesConfig(const BitsAndBytesConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_BITSANDBYTES_CONFIG_H_

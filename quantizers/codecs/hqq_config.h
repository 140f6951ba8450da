// The quantization_config of HQQ checkpoints (Transformers 4.51.3, HqqConfig; hqq 0.2.8,
// BaseQuantizeConfig).
#ifndef QUANTD_QUANTIZERS_CODECS_HQQ_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_HQQ_CONFIG_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "quantizers/codecs/hqq_packing.h"

namespace quantd {

// weight_quant_params of one kind of layer.
struct HqqParameters {
  const HqqBits* bits = FindHqqBits("4");
  std::optional<int64_t> group_size = 64;  // unset ("null"): in features (axis 1) or out (axis 0)
  int axis = 1;
  bool optimize = true;
  bool round_zero = true;  // upstream: with 4 bits only
  bool view_as_float = false;

  int64_t GroupSize(int64_t rows, int64_t cols) const {
    return group_size.value_or(axis == 1 ? cols : rows);
  }
};

struct HqqConfig {
  // One entry under "" for all layers, or one for each linear tag ("self_attn.q_proj"): then layers
  // with other tags stay as they are.
  std::map<std::string, HqqParameters> layers = {{"", {}}};
  std::vector<std::string> skip_modules = {"lm_head"};

  // Those of a module, or null when it stays as it is. Skip lists match as substrings.
  const HqqParameters* Find(absl::string_view module) const;
};

// The module's name without "model", "layers" and numbers: "self_attn.q_proj".
std::string HqqLinearTag(absl::string_view module);

// INVALID_ARGUMENT names the key, found and expected. Absent weight_quant_params are those of
// Quantizer.quantize: axis 0, no rounding of zeros.
absl::StatusOr<HqqConfig> ParseHqqConfig(const std::string& json);
// INVALID_ARGUMENT unless group sizes are multiples of 8 and skip lists hold names.
absl::Status CheckHqqConfig(const HqqConfig& config);
// Every key, as Transformers writes it.
std::string WriteHqqConfig(const HqqConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_HQQ_CONFIG_H_

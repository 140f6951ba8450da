// The quantization_config of AQLM (Transformers 5.23, AqlmConfig).
#ifndef QUANTD_QUANTIZERS_CODECS_AQLM_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_AQLM_CONFIG_H_

#include <string>
#include <vector>

#include "core/status.h"

namespace quantd {

struct AqlmConfig {
  int in_group_size = 8;
  int out_group_size = 1;
  int num_codebooks = 1;
  int nbits_per_codebook = 16;
  std::vector<std::string> linear_weights_not_to_quantize;

  // Whether one of the Transformers versions leaves the module alone: 4.x looks for
  // "<module>.weight", 5.x for patterns of module names.
  bool IsSkipped(absl::string_view module) const;
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<AqlmConfig> ParseAqlmConfig(const std::string& json);
absl::Status CheckAqlmConfig(const AqlmConfig& config);
// Every key, as Transformers writes it.
std::string WriteAqlmConfig(const AqlmConfig& config);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_AQLM_CONFIG_H_

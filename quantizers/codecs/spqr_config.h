// The quantization_config of SpQR (Transformers 4.56 and 5.23, SpQRConfig): 3 bits in tiles of 16
// by 16, and the size of every stored tensor.
#ifndef QUANTD_QUANTIZERS_CODECS_SPQR_CONFIG_H_
#define QUANTD_QUANTIZERS_CODECS_SPQR_CONFIG_H_

#include <map>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"

namespace quantd {

struct SpqrConfig {
  std::map<std::string, int64_t> shapes;  // "<module>.<tensor>.shape" to its elements
  std::vector<std::string> modules_to_not_convert;

  // Whether one of the Transformers versions leaves the module alone: 4.56 looks for
  // "<module>.weight", 5.x for patterns of module names.
  bool IsSkipped(absl::string_view module) const;
};

// INVALID_ARGUMENT names the key, found and expected.
absl::StatusOr<SpqrConfig> ParseSpqrConfig(const std::string& json);
std::string WriteSpqrConfig(const SpqrConfig& config);

// The entries of `shapes` for the stored tensors (full names) of SpQR layers.
std::map<std::string, int64_t> SpqrShapes(const std::map<std::string, Shape>& stored);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_SPQR_CONFIG_H_

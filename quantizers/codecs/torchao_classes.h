// The config classes of torchao 0.18 (quantization/quant_api.py): their fields with upstream's
// defaults, and what they mean for a matrix. Private to quantizers/codecs.
#ifndef QUANTD_QUANTIZERS_CODECS_TORCHAO_CLASSES_H_
#define QUANTD_QUANTIZERS_CODECS_TORCHAO_CLASSES_H_

#include <string>
#include <vector>

#include "nlohmann/json_fwd.hpp"
#include "quantizers/codecs/torchao_config.h"

namespace quantd {

// The `_data` of a config class as upstream writes it when no field is given; an empty object for a
// class that is not supported.
nlohmann::json TorchAoDefaults(absl::string_view config_class);

// A config object {"_type", "_version", "_data"} read and completed with its class's defaults.
// `where` prefixes keys in messages.
struct AoParsedClass {
  AoScheme scheme;
  std::string json;  // completed
};
absl::StatusOr<AoParsedClass> ParseTorchAoClass(const nlohmann::json& object,
                                                const std::string& where);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_TORCHAO_CLASSES_H_

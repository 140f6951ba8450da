#include "quantizers/codecs/spqr_config.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/method.h"

namespace quantd {

bool SpqrConfig::IsSkipped(absl::string_view module) const {
  const std::string parameter = absl::StrCat(module, ".weight");
  return std::any_of(modules_to_not_convert.begin(), modules_to_not_convert.end(),
                     [&](const std::string& pattern) {
                       return pattern == parameter || MatchesSkipPattern(module, pattern);
                     });
}

absl::StatusOr<SpqrConfig> ParseSpqrConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  RETURN_IF_ERROR(fields.Int("bits", 3, 3, 3).status());
  RETURN_IF_ERROR(fields.Int("beta1", 16, 16, 16).status());
  RETURN_IF_ERROR(fields.Int("beta2", 16, 16, 16).status());
  SpqrConfig config;
  ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  RETURN_IF_ERROR(CheckSkipPatterns(config.modules_to_not_convert, "modules_to_not_convert"));
  if (!fields.Has("shapes")) return config;
  const nlohmann::json& shapes = fields.Raw("shapes");
  ASSIGN_OR_RETURN(ConfigFields entries, ConfigFields::Of(shapes, fields.Path("shapes")));
  for (const auto& [name, size] : shapes.items()) {
    ASSIGN_OR_RETURN(config.shapes[name], entries.Int(name, -1, 0, int64_t{1} << 40));
    if (config.shapes[name] < 0) return entries.Wrong(name, "an integer");
  }
  return config;
}

std::string WriteSpqrConfig(const SpqrConfig& config) {
  nlohmann::json shapes = nlohmann::json::object();
  for (const auto& [name, size] : config.shapes) shapes[name] = size;
  const nlohmann::json json = {{"quant_method", "spqr"},
                               {"bits", 3},
                               {"beta1", 16},
                               {"beta2", 16},
                               {"shapes", shapes},
                               {"modules_to_not_convert", config.modules_to_not_convert}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::map<std::string, int64_t> SpqrShapes(const std::map<std::string, Shape>& stored) {
  std::map<std::string, int64_t> shapes;
  for (const auto& [name, shape] : stored) {
    for (const char* local : {"dense_weights", "row_offsets", "col_vals", "in_perm"}) {
      if (!absl::EndsWith(absl::StrCat(".", name), absl::StrCat(".", local))) continue;
      shapes[absl::StrCat(name, ".shape")] = NumElements(shape);
    }
  }
  return shapes;
}

}  // namespace quantd

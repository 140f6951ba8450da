#include "quantizers/codecs/quanto_config.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/grids/small_floats.h"

namespace quantd {
namespace {

constexpr char kWhere[] = "quantization_config";
constexpr char kTypes[] =
    "one of int2, int4, int8, float8, float8_e4m3fn, float8_e4m3fnuz, float8_e5m2";

constexpr QuantoType kQuantoTypes[] = {
    {"qint2", 2, DType::kU8, 0},
    {"qint4", 4, DType::kU8, 0},
    {"qint8", 8, DType::kI8, 127},
    {"qfloat8_e4m3fn", 8, DType::kF8E4M3, kE4M3Max},
    {"qfloat8_e4m3fnuz", 8, DType::kF8E4M3FNUZ, kE4M3FNUZMax},
    {"qfloat8_e5m2", 8, DType::kF8E5M2, kE5M2Max},
};

absl::StatusOr<const QuantoType*> ReadType(ConfigFields& fields, absl::string_view fallback) {
  ASSIGN_OR_RETURN(const std::string name, fields.String("weights", fallback));
  const QuantoType* type = FindQuantoType(name);
  if (type == nullptr) return fields.Wrong("weights", kTypes);
  return type;
}

absl::Status CheckActivations(ConfigFields& fields) {
  ASSIGN_OR_RETURN(const std::string activations, fields.String("activations", "none"));
  if (activations == "none") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(fields.Path("activations"), ": quantized activations (found ",
                   activations.substr(0, 40), ") are not supported; expected null"));
}

// {"model.layers.0.mlp.up_proj": {"weights": "qint4", "activations": "none"}, ...}
absl::Status ReadMap(const nlohmann::json& map, QuantoConfig* config) {
  const std::string where = absl::StrCat(kWhere, ".quantization_map");
  if (!map.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": found ", DescribeJson(map), ", expected an object of modules"));
  }
  config->modules.emplace();
  for (const auto& [module, entry] : map.items()) {
    ASSIGN_OR_RETURN(ConfigFields fields,
                     ConfigFields::Of(entry, absl::StrCat(where, ".", module)));
    RETURN_IF_ERROR(CheckActivations(fields));
    ASSIGN_OR_RETURN(const std::string weights, fields.String("weights", "none"));
    if (weights == "none") continue;
    ASSIGN_OR_RETURN(const QuantoType* type, ReadType(fields, ""));
    config->modules->emplace(module, type);
  }
  return absl::OkStatus();
}

using QuantoModules = std::vector<std::pair<std::string, const QuantoType*>>;

nlohmann::ordered_json MapOf(const QuantoModules& modules) {
  nlohmann::ordered_json map = nlohmann::ordered_json::object();
  for (const auto& [module, type] : modules) {
    map[module] = {{"weights", std::string(type->name)}, {"activations", "none"}};
  }
  return map;
}

std::string ConfigOf(const nlohmann::json& map) {
  return nlohmann::json{{"quant_method", "quanto"}, {"quantization_map", map}}.dump(
      -1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status ReadShape(ConfigFields& fields, std::optional<Shape>* shape) {
  if (!fields.Has("shape")) return absl::OkStatus();
  const nlohmann::json& value = fields.Raw("shape");
  constexpr uint64_t kLargest = uint64_t{1} << 31;
  const auto is_dimension = [](const nlohmann::json& size) {
    return size.is_number_unsigned() && size.get<uint64_t>() > 0 && size.get<uint64_t>() < kLargest;
  };
  if (!value.is_array() || value.size() != 2 || !is_dimension(value[0]) ||
      !is_dimension(value[1])) {
    return fields.Wrong("shape", "[out, in], two positive integers");
  }
  *shape = {value[0].get<int64_t>(), value[1].get<int64_t>()};
  return absl::OkStatus();
}

}  // namespace

const QuantoType* FindQuantoType(absl::string_view name) {
  absl::ConsumePrefix(&name, "q");
  if (name == "float8") name = "float8_e4m3fn";
  for (const QuantoType& type : kQuantoTypes) {
    if (type.name.substr(1) == name) return &type;
  }
  return nullptr;
}

absl::StatusOr<QuantoConfig> ParseQuantoConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJsonObject(json, kWhere));
  ConfigFields fields(document, kWhere);
  QuantoConfig config;
  RETURN_IF_ERROR(CheckActivations(fields));
  if (fields.Has("quantization_map")) {
    RETURN_IF_ERROR(ReadMap(fields.Raw("quantization_map"), &config));
    return config;
  }
  ASSIGN_OR_RETURN(config.weights, ReadType(fields, "int8"));
  RETURN_IF_ERROR(ReadShape(fields, &config.shape));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
    RETURN_IF_ERROR(CheckSkipPatterns(*config.modules_to_not_convert, "modules_to_not_convert"));
  }
  return config;
}

std::string WriteQuantoConfig(const QuantoConfig& config) {
  if (config.modules) {
    return ConfigOf(MapOf({config.modules->begin(), config.modules->end()}));
  }
  absl::string_view weights = config.weights->name.substr(1);
  if (weights == "float8_e4m3fn") weights = "float8";  // Transformers' name
  nlohmann::json json = {{"quant_method", "quanto"},
                         {"weights", std::string(weights)},
                         {"activations", nullptr},
                         {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  if (config.shape) json["shape"] = *config.shape;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<std::string> QuantoConfigOfMap(const std::string& map_json) {
  ASSIGN_OR_RETURN(const nlohmann::json map, ParseStrictJsonObject(map_json, "quanto_qmap.json"));
  return ConfigOf(map);
}

std::string WriteQuantoMap(const std::vector<std::pair<std::string, const QuantoType*>>& modules) {
  return MapOf(modules).dump(4);
}

}  // namespace quantd

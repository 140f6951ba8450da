#include "quantizers/codecs/hqq_config.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 31;

std::string KnownBits() {
  return absl::StrCat("one of ",
                      absl::StrJoin(AllHqqBits(), ", ", [](std::string* out, const HqqBits& bits) {
                        absl::StrAppend(out, bits.name);
                      }));
}

absl::Status ReadBits(ConfigFields& fields, HqqParameters* parameters) {
  if (!fields.Has("nbits")) return absl::OkStatus();
  const nlohmann::json& value = fields.Raw("nbits");
  parameters->bits = value.is_number() ? FindHqqBits(value.get<float>()) : nullptr;
  return parameters->bits ? absl::OkStatus() : fields.Wrong("nbits", KnownBits());
}

absl::Status ReadGroupSize(ConfigFields& fields, HqqParameters* parameters) {
  if (!fields.Contains("group_size")) return absl::OkStatus();
  parameters->group_size.reset();
  if (!fields.Has("group_size")) return absl::OkStatus();
  ASSIGN_OR_RETURN(parameters->group_size, fields.Int("group_size", 64, 8, kMaxGroup));
  return absl::OkStatus();
}

// A switch that upstream has but that no checkpoint can be stored with.
absl::Status RequireBool(ConfigFields& fields, absl::string_view key, bool expected) {
  ASSIGN_OR_RETURN(const bool value, fields.Bool(key, expected));
  if (value == expected) return absl::OkStatus();
  return fields.Wrong(key, absl::StrCat(expected ? "true" : "false",
                                        "; hqq cannot store a checkpoint with anything else"));
}

absl::StatusOr<HqqParameters> ReadParameters(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(json, where));
  HqqParameters parameters;
  RETURN_IF_ERROR(ReadBits(fields, &parameters));
  RETURN_IF_ERROR(ReadGroupSize(fields, &parameters));
  RETURN_IF_ERROR(RequireBool(fields, "channel_wise", true));
  ASSIGN_OR_RETURN(const int64_t axis, fields.Int("axis", 0, 0, 1));
  parameters.axis = static_cast<int>(axis);
  ASSIGN_OR_RETURN(parameters.optimize, fields.Bool("optimize", true));
  ASSIGN_OR_RETURN(parameters.round_zero, fields.Bool("round_zero", false));
  ASSIGN_OR_RETURN(parameters.view_as_float, fields.Bool("view_as_float", false));
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return parameters;
}

// The value of quant_config, or of one of its tags.
absl::StatusOr<HqqParameters> ReadLayer(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(json, where));
  for (const char* key : {"scale_quant_params", "zero_quant_params"}) {
    if (!fields.Has(key)) continue;
    return fields.Wrong(key, "null; hqq ignores quantized scales and zero points since 0.2");
  }
  RETURN_IF_ERROR(RequireBool(fields, "offload_meta", false));
  if (!fields.Has("weight_quant_params")) return fields.Wrong("weight_quant_params", "an object");
  ASSIGN_OR_RETURN(HqqParameters parameters, ReadParameters(fields.Raw("weight_quant_params"),
                                                            fields.Path("weight_quant_params")));
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return parameters;
}

nlohmann::json LayerJson(const HqqParameters& parameters) {
  nlohmann::json json = {{"channel_wise", true},
                         {"group_size", nullptr},
                         {"optimize", parameters.optimize},
                         {"round_zero", parameters.round_zero},
                         {"axis", parameters.axis},
                         {"view_as_float", parameters.view_as_float}};
  if (parameters.group_size) json["group_size"] = *parameters.group_size;
  if (parameters.bits->name == "1.58") {
    json["nbits"] = 1.58;
  } else {
    json["nbits"] = static_cast<int>(parameters.bits->value);
  }
  return {{"weight_quant_params", json},
          {"scale_quant_params", nullptr},
          {"zero_quant_params", nullptr},
          {"offload_meta", false}};
}

}  // namespace

std::string HqqLinearTag(absl::string_view module) {
  std::vector<absl::string_view> parts = absl::StrSplit(module, '.');
  std::erase_if(parts, [](absl::string_view part) {
    return part == "model" || part == "layers" ||
           std::all_of(part.begin(), part.end(), absl::ascii_isdigit);
  });
  return absl::StrJoin(parts, ".");
}

const HqqParameters* HqqConfig::Find(absl::string_view module) const {
  for (const std::string& skipped : skip_modules) {
    if (absl::StrContains(module, skipped)) return nullptr;
  }
  const bool uniform = layers.contains("");
  const auto found = layers.find(uniform ? "" : HqqLinearTag(module));
  return found == layers.end() ? nullptr : &found->second;
}

absl::StatusOr<HqqConfig> ParseHqqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  HqqConfig config;
  if (fields.Has("skip_modules")) {
    ASSIGN_OR_RETURN(config.skip_modules, fields.StringList("skip_modules"));
  }
  if (!fields.Has("quant_config")) return fields.Wrong("quant_config", "an object");
  const nlohmann::json& layers = fields.Raw("quant_config");
  const std::string where = fields.Path("quant_config");
  RETURN_IF_ERROR(ConfigFields::Of(layers, where).status());
  if (layers.empty() || layers.contains("weight_quant_params")) {
    ASSIGN_OR_RETURN(config.layers[""], ReadLayer(layers, where));
  } else {
    config.layers.clear();
    for (const auto& [tag, layer] : layers.items()) {
      const std::string name = absl::Utf8SafeCEscape(absl::string_view(tag).substr(0, 200));
      ASSIGN_OR_RETURN(config.layers[tag], ReadLayer(layer, absl::StrCat(where, ".", name)));
    }
    if (config.layers.contains("")) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": a linear tag is empty"));
    }
  }
  RETURN_IF_ERROR(CheckHqqConfig(config));
  return config;
}

absl::Status CheckHqqConfig(const HqqConfig& config) {
  for (const auto& [tag, layer] : config.layers) {
    if (layer.group_size.value_or(8) % 8 == 0 && layer.group_size.value_or(8) > 0) continue;
    return absl::InvalidArgumentError(absl::StrCat("group_size: found ", *layer.group_size,
                                                   ", expected a positive multiple of 8, or none"));
  }
  for (const std::string& name : config.skip_modules) {
    if (name.empty()) {
      return absl::InvalidArgumentError(
          "skip_modules: a name is empty, which would keep every layer; remove it");
    }
  }
  return absl::OkStatus();
}

std::string WriteHqqConfig(const HqqConfig& config) {
  nlohmann::json layers;
  for (const auto& [tag, layer] : config.layers) {
    if (tag.empty()) {
      layers = LayerJson(layer);
    } else {
      layers[tag] = LayerJson(layer);
    }
  }
  const nlohmann::json json = {
      {"quant_config", layers}, {"quant_method", "hqq"}, {"skip_modules", config.skip_modules}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

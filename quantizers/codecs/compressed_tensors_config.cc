#include "quantizers/codecs/compressed_tensors_config.h"

#include <array>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/compressed_tensors_args.h"
#include "quantizers/codecs/compressed_tensors_presets.h"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr size_t kMaxGroups = 256;

constexpr std::array<std::pair<CtFormat, absl::string_view>, 8> kFormats = {{
    {CtFormat::kPackQuantized, "pack-quantized"},
    {CtFormat::kIntQuantized, "int-quantized"},
    {CtFormat::kFloatQuantized, "float-quantized"},
    {CtFormat::kNaiveQuantized, "naive-quantized"},
    {CtFormat::kNvfp4Pack, "nvfp4-pack-quantized"},
    {CtFormat::kMxfp4Pack, "mxfp4-pack-quantized"},
    {CtFormat::kMxfp6Pack, "mxfp6-pack-quantized"},
    {CtFormat::kMxfp8, "mxfp8-quantized"},
}};

// Sparse weights, which upstream has no compressor for since its release 0.15.
absl::Status DroppedFormat(const std::string& where, absl::string_view format) {
  return absl::UnimplementedError(
      absl::StrCat(where, ": found \"", absl::Utf8SafeCEscape(format.substr(0, 200)),
                   "\", a sparse format that compressed-tensors no longer reads since 0.15; "
                   "decompress the checkpoint with compressed-tensors 0.14 first"));
}

// nullopt where the name leaves the choice to inference.
absl::StatusOr<std::optional<CtFormat>> ParseFormat(absl::string_view name,
                                                    const std::string& where) {
  for (const auto& [format, spelling] : kFormats) {
    if (spelling == name) return std::optional<CtFormat>(format);
  }
  for (const char* open : {"", "dense", "fakequant", "mixed-precision"}) {
    if (name == open) return std::optional<CtFormat>();
  }
  for (const char* legacy : {"sparse-bitmask", "sparse-24-bitmask", "marlin-24"}) {
    if (name == legacy) return DroppedFormat(where, name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": found \"", absl::Utf8SafeCEscape(name.substr(0, 200)),
                   "\", expected a compression format such as pack-quantized or float-quantized"));
}

// One of the activation entries.
absl::StatusOr<std::optional<CtArgs>> ParseActivations(ConfigFields& fields,
                                                       absl::string_view key) {
  if (!fields.Has(key)) return std::optional<CtArgs>();
  ASSIGN_OR_RETURN(const CtArgs args, ParseCtArgs(fields.Raw(key), fields.Path(key)));
  if (args.is_grouped_by_activation) {
    return absl::InvalidArgumentError(
        absl::StrCat(fields.Path(key), ".actorder: expected null for activations"));
  }
  return std::optional<CtArgs>(args);
}

std::string JsonOf(const std::optional<CtArgs>& args) { return args ? args->json : "null"; }

absl::StatusOr<CtGroup> ParseScheme(const nlohmann::json& value,
                                    const std::vector<std::string>& targets,
                                    const std::string& where,
                                    std::optional<CtFormat> global_format) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  CtGroup group;
  ASSIGN_OR_RETURN(const auto own_targets, fields.StringList("targets"));
  ASSIGN_OR_RETURN(group.targets, ModuleMatcher::Make(targets.empty() ? own_targets : targets,
                                                      where + ".targets"));
  ASSIGN_OR_RETURN(group.inputs, ParseActivations(fields, "input_activations"));
  ASSIGN_OR_RETURN(const auto outputs, ParseActivations(fields, "output_activations"));
  group.has_static_outputs = outputs && outputs->is_static;
  group.output_activations = JsonOf(outputs);
  ASSIGN_OR_RETURN(const std::string name, fields.String("format", ""));
  ASSIGN_OR_RETURN(std::optional<CtFormat> format, ParseFormat(name, where + ".format"));
  if (!format) format = global_format;
  if (fields.Has("weights")) {
    const std::string path = where + ".weights";
    ASSIGN_OR_RETURN(CtArgs weights, ParseCtArgs(fields.Raw("weights"), path));
    RETURN_IF_ERROR(CheckCtWeights(weights, path));
    group.format = format.value_or(InferCtFormat(weights, group.inputs.has_value()));
    RETURN_IF_ERROR(CheckCtFormat(group.format, weights, where));
    group.weights = std::move(weights);
  }
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return group;
}

// A group is a scheme, or the name of a preset with a list of targets.
absl::StatusOr<CtGroup> ParseGroup(const std::string& name, const nlohmann::json& value,
                                   std::optional<CtFormat> global_format) {
  const std::string where = "config_groups." + absl::Utf8SafeCEscape(name.substr(0, 100));
  if (!value.is_array()) return ParseScheme(value, {}, where, global_format);
  const CtPreset* preset = FindCtPreset(name);
  if (preset == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        where, ": a list of targets needs the name of a preset scheme such as W4A16 as its key"));
  }
  std::vector<std::string> targets;
  for (const nlohmann::json& item : value) {
    if (!item.is_string()) {
      return absl::InvalidArgumentError(where + ": expected a list of module names or patterns");
    }
    targets.push_back(item.get<std::string>());
  }
  return ParseScheme(nlohmann::json::parse(preset->scheme), targets, where, global_format);
}

absl::Status RefuseUnsupported(ConfigFields& fields) {
  if (fields.Has("sparsity_config") && !fields.Raw("sparsity_config").empty()) {
    ASSIGN_OR_RETURN(ConfigFields sparsity,
                     ConfigFields::Of(fields.Raw("sparsity_config"), "sparsity_config"));
    ASSIGN_OR_RETURN(const std::string format, sparsity.String("format", "dense"));
    if (format != "dense")
      return DroppedFormat("quantization_config.sparsity_config.format", format);
  }
  if (fields.Has("transform_config") && !fields.Raw("transform_config").empty()) {
    ASSIGN_OR_RETURN(ConfigFields transform,
                     ConfigFields::Of(fields.Raw("transform_config"), "transform_config"));
    if (transform.Has("config_groups") && !transform.Raw("config_groups").empty()) {
      return absl::UnimplementedError("transform_config: transforms are not supported");
    }
  }
  return absl::OkStatus();
}

absl::Status ParseGroups(ConfigFields& fields, CtConfig* config) {
  ASSIGN_OR_RETURN(const std::string name, fields.String("format", ""));
  ASSIGN_OR_RETURN(const auto format, ParseFormat(name, "quantization_config.format"));
  const nlohmann::json& groups = fields.Raw("config_groups");
  if (!groups.is_object() || groups.empty() || groups.size() > kMaxGroups) {
    return fields.Wrong("config_groups", "an object of 1 to 256 schemes");
  }
  for (const auto& [key, value] : groups.items()) {
    ASSIGN_OR_RETURN(CtGroup group, ParseGroup(key, value, format));
    config->groups.push_back(std::move(group));
  }
  return absl::OkStatus();
}

nlohmann::json GroupJson(const CtGroup& group) {
  nlohmann::json json = {
      {"format", nullptr},
      {"input_activations", nlohmann::json::parse(JsonOf(group.inputs))},
      {"output_activations", nlohmann::json::parse(group.output_activations)},
      {"targets", group.targets.targets()},
      {"weights", nullptr},
  };
  if (group.weights) {
    json["format"] = std::string(NameOf(group.format));
    json["weights"] = nlohmann::json::parse(group.weights->json);
  }
  return json;
}

// What a request says of activations, in place of what its scheme says: eight bits of the weights'
// kind, one scale when static and one a token when dynamic.
void SetActivations(const CtRequest& request, nlohmann::json* scheme) {
  nlohmann::json& inputs = (*scheme)["input_activations"];
  const nlohmann::json weights = scheme->value("weights", nlohmann::json::object());
  if (request.activations == "none") inputs = nullptr;
  const bool is_static = request.activations == "static";
  if (is_static || request.activations == "dynamic") {
    inputs = {{"num_bits", 8},
              {"strategy", is_static ? "tensor" : "token"},
              {"type", weights.value("type", "int")},
              {"dynamic", !is_static}};
  }
  if (!request.observer.empty() && inputs.is_object()) inputs["observer"] = request.observer;
}

// The format of all groups, "mixed-precision" for several.
std::string GlobalFormat(const CtConfig& config) {
  std::string format = "dense";
  for (const CtGroup& group : config.groups) {
    if (!group.weights) continue;
    const std::string name(NameOf(group.format));
    if (format != "dense" && format != name) return "mixed-precision";
    format = name;
  }
  return format;
}

}  // namespace

absl::string_view NameOf(CtFormat format) { return kFormats[static_cast<size_t>(format)].second; }

const CtGroup* CtConfig::GroupOf(absl::string_view module, absl::string_view class_name) const {
  if (ignore.Find(module, class_name) != ModuleMatcher::kNone) return nullptr;
  const CtGroup* best = nullptr;
  ModuleMatcher::Match best_match = ModuleMatcher::kNone;
  for (const CtGroup& group : groups) {
    const ModuleMatcher::Match match = group.targets.Find(module, class_name);
    if (match < best_match) {
      best = &group;
      best_match = match;
    }
  }
  return best;
}

absl::StatusOr<CtConfig> ParseCtConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  RETURN_IF_ERROR(RefuseUnsupported(fields));
  CtConfig config;
  RETURN_IF_ERROR(ParseGroups(fields, &config));
  ASSIGN_OR_RETURN(const auto ignore, fields.StringList("ignore"));
  ASSIGN_OR_RETURN(config.ignore, ModuleMatcher::Make(ignore, "quantization_config.ignore"));
  ASSIGN_OR_RETURN(config.version, fields.String("version", ""));
  ASSIGN_OR_RETURN(const auto cache, ParseActivations(fields, "kv_cache_scheme"));
  config.kv_cache_scheme = JsonOf(cache);
  config.has_static_kv_cache = cache && cache->is_static;
  return config;
}

std::string WriteCtConfig(const CtConfig& config) {
  nlohmann::json groups = nlohmann::json::object();
  for (size_t i = 0; i < config.groups.size(); ++i) {
    groups[absl::StrCat("group_", i)] = GroupJson(config.groups[i]);
  }
  const nlohmann::json json = {
      {"config_groups", groups},
      {"format", GlobalFormat(config)},
      {"global_compression_ratio", nullptr},
      {"ignore", config.ignore.targets()},
      {"kv_cache_scheme", nlohmann::json::parse(config.kv_cache_scheme)},
      {"moe_sparsity_config", nullptr},
      {"quant_method", "compressed-tensors"},
      {"quantization_status", "compressed"},
      {"sparsity_config", nlohmann::json::object()},
      {"transform_config", nlohmann::json::object()},
      {"version", kCompressedTensorsVersion},
  };
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string CtRequestJson(const CtRequest& request) {
  nlohmann::json scheme;
  const CtPreset* preset = FindCtPreset(request.scheme);
  if (preset != nullptr) {
    scheme = nlohmann::json::parse(preset->scheme);
  } else {
    nlohmann::json weights = {
        {"num_bits", request.num_bits}, {"type", request.type}, {"symmetric", request.symmetric}};
    if (!request.strategy.empty()) weights["strategy"] = request.strategy;
    if (request.group_size != 0) weights["group_size"] = request.group_size;
    if (!request.block_structure.empty()) weights["block_structure"] = request.block_structure;
    if (!request.scale_dtype.empty()) weights["scale_dtype"] = request.scale_dtype;
    scheme["weights"] = weights;
  }
  SetActivations(request, &scheme);
  scheme["targets"] = request.targets;
  if (!request.format.empty()) scheme["format"] = request.format;
  const nlohmann::json json = {{"quant_method", "compressed-tensors"},
                               {"config_groups", {{"group_0", scheme}}},
                               {"ignore", request.ignore}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

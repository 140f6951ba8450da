#include "quantizers/codecs/torchao_config.h"

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/torchao_classes.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr char kDefaultKey[] = "_default";
constexpr absl::string_view kPatternPrefix = "re:";
constexpr size_t kMaxRules = 4096;
constexpr size_t kMaxPatternBytes = 1024;

absl::StatusOr<std::shared_ptr<const RE2>> PatternOf(const std::string& key,
                                                     const std::string& where) {
  if (!absl::StartsWith(key, kPatternPrefix)) return std::shared_ptr<const RE2>();
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  auto pattern = std::make_shared<const RE2>(key.substr(kPatternPrefix.size()), options);
  if (key.size() <= kMaxPatternBytes && pattern->ok()) return pattern;
  return absl::InvalidArgumentError(absl::StrCat(
      where, ": the pattern \"", absl::Utf8SafeCEscape(key.substr(0, 200)), "\" is ",
      pattern->ok() ? "longer than 1024 bytes" : "invalid",
      "; expected \"re:\" and a regular expression of RE2 (no lookaround, no back-references)"));
}

// FqnToConfig: {"fqn_to_config": {...}, "module_fqn_to_config": {...}}, one of them or both alike.
absl::Status ReadRules(const json& object, const std::string& where, TorchAoConfig* config) {
  ConfigFields fields(object, where);
  if (!fields.Has("_data") || !fields.Raw("_data").is_object()) {
    return fields.Wrong("_data", "an object of the class's fields");
  }
  const json& data = fields.Raw("_data");
  const json empty = json::object();
  const json current = data.value("fqn_to_config", empty);
  const json older = data.value("module_fqn_to_config", empty);
  if (!current.is_object() || !older.is_object()) {
    return fields.Wrong("_data", "fqn_to_config as an object");
  }
  const json& map = current.empty() ? older : current;
  if (!older.empty() && older != map) {
    return fields.Wrong("_data", "the same in fqn_to_config and module_fqn_to_config");
  }
  if (map.empty() || map.size() > kMaxRules) {
    return fields.Wrong("_data", "1 to 4096 entries in fqn_to_config");
  }
  json completed = json::object();
  for (const auto& [key, value] : map.items()) {
    const std::string path =
        absl::StrCat(where, "._data.fqn_to_config.", absl::Utf8SafeCEscape(key.substr(0, 200)));
    TorchAoConfig::Rule rule;
    rule.key = key;
    ASSIGN_OR_RETURN(rule.pattern, PatternOf(key, path));
    completed[key] = nullptr;
    if (!value.is_null()) {
      ASSIGN_OR_RETURN(AoParsedClass parsed, ParseTorchAoClass(value, path));
      rule.scheme = std::move(parsed.scheme);
      completed[key] = json::parse(parsed.json, nullptr, false);
    }
    config->rules.push_back(std::move(rule));
  }
  config->quant_type =
      json{{"_type", "FqnToConfig"},
           {"_version", 1},
           {"_data", {{"fqn_to_config", completed}, {"module_fqn_to_config", completed}}}}
          .dump();
  return absl::OkStatus();
}

absl::Status ReadQuantType(ConfigFields& fields, TorchAoConfig* config) {
  constexpr absl::string_view kExpected =
      "{\"default\": a config object} as Transformers 5 writes it";
  if (!fields.Has("quant_type")) return fields.Wrong("quant_type", kExpected);
  const json& quant_type = fields.Raw("quant_type");
  if (!quant_type.is_object() || quant_type.size() != 1 || !quant_type.contains("default")) {
    return fields.Wrong("quant_type", kExpected);
  }
  const std::string where = fields.Path("quant_type.default");
  const json& object = quant_type["default"];
  ASSIGN_OR_RETURN(ConfigFields chosen, ConfigFields::Of(object, where));
  ASSIGN_OR_RETURN(const std::string name, chosen.String("_type", ""));
  if (name == "FqnToConfig" || name == "ModuleFqnToConfig") {
    return ReadRules(object, where, config);
  }
  ASSIGN_OR_RETURN(AoParsedClass parsed, ParseTorchAoClass(object, where));
  config->rules.push_back({kDefaultKey, nullptr, std::move(parsed.scheme)});
  config->quant_type = std::move(parsed.json);
  return absl::OkStatus();
}

bool Matches(const RE2& pattern, absl::string_view text) {
  return pattern.Match(re2::StringPiece(text.data(), text.size()), 0, text.size(), RE2::ANCHOR_BOTH,
                       nullptr, 0);
}

json Named(absl::string_view type, const std::string& value) {
  return {{"_type", std::string(type)}, {"_data", value}};
}

// The JSON of a field that an option gives as text, by the shape of its default.
json FieldValue(const std::string& key, const json& fallback, const std::string& text) {
  if (fallback.is_boolean()) return text == "true";
  if (absl::EndsWith(key, "dtype")) return Named("torch.dtype", text);
  if (absl::EndsWith(key, "granularity")) {
    if (text == "PerRow") {
      return {{"_type", text}, {"_version", 1}, {"_data", {{"dim", -1}}}};
    }
    if (text == "PerAxis") return {{"_type", text}, {"_version", 1}, {"_data", {{"axis", 0}}}};
    return {{"_type", text}, {"_version", 1}, {"_data", json::object()}};
  }
  if (fallback.is_object()) return Named(fallback["_type"].get<std::string>(), text);
  return text;
}

}  // namespace

absl::string_view NameOf(AoTensor tensor) {
  switch (tensor) {
    case AoTensor::kInt8:
      return "Int8Tensor";
    case AoTensor::kInt4:
      return "Int4Tensor";
    case AoTensor::kIntx:
      return "IntxUnpackedToInt8Tensor";
    case AoTensor::kFloat8:
      break;
  }
  return "Float8Tensor";
}

const AoScheme* TorchAoConfig::SchemeOf(absl::string_view module, bool* is_named) const {
  const std::string parameter = absl::StrCat(module, ".weight");
  const Rule* found = nullptr;
  const auto search = [&](const auto& matches) {
    for (const Rule& rule : rules) {
      if (found == nullptr && matches(rule)) found = &rule;
    }
  };
  search([&](const Rule& rule) { return rule.pattern == nullptr && rule.key == parameter; });
  search([&](const Rule& rule) {
    return rule.pattern == nullptr && rule.key != kDefaultKey && rule.key == module;
  });
  search([&](const Rule& rule) {
    return rule.pattern && (Matches(*rule.pattern, parameter) || Matches(*rule.pattern, module));
  });
  if (is_named != nullptr) *is_named = found != nullptr;
  search([&](const Rule& rule) { return rule.key == kDefaultKey; });
  return found != nullptr && found->scheme ? &*found->scheme : nullptr;
}

absl::StatusOr<TorchAoConfig> ParseTorchAoConfig(const std::string& text) {
  ASSIGN_OR_RETURN(const json document, ParseStrictJsonObject(text, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  TorchAoConfig config;
  RETURN_IF_ERROR(ReadQuantType(fields, &config));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
    RETURN_IF_ERROR(CheckSkipPatterns(*config.modules_to_not_convert, "modules_to_not_convert"));
  }
  ASSIGN_OR_RETURN(config.include_input_output_embeddings,
                   fields.Bool("include_input_output_embeddings", false));
  ASSIGN_OR_RETURN(config.untie_embedding_weights, fields.Bool("untie_embedding_weights", false));
  return config;
}

std::string WriteTorchAoConfig(const TorchAoConfig& config) {
  const json out = {{"quant_method", "torchao"},
                    {"quant_type", {{"default", json::parse(config.quant_type, nullptr, false)}}},
                    {"modules_to_not_convert",
                     config.modules_to_not_convert ? json(*config.modules_to_not_convert) : json()},
                    {"include_input_output_embeddings", config.include_input_output_embeddings},
                    {"untie_embedding_weights", config.untie_embedding_weights}};
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

absl::StatusOr<std::string> TorchAoRequestJson(const TorchAoRequest& request) {
  const json defaults = TorchAoDefaults(request.quant_type);
  const auto unknown = [&](absl::string_view field) {
    return absl::InvalidArgumentError(absl::StrCat("torchao: option ", field,
                                                   " contradicts quant_type ", request.quant_type,
                                                   ", which has no such field"));
  };
  json data = json::object();
  for (const auto& [key, text] : request.fields) {
    if (!defaults.contains(key)) return unknown(key);
    data[key] = FieldValue(key, defaults[key], text);
  }
  if (request.group_size) {
    const json per_group = {
        {"_type", "PerGroup"}, {"_version", 1}, {"_data", {{"group_size", *request.group_size}}}};
    const char* key = request.quant_type == "Int4WeightOnlyConfig" ? "group_size"
                      : defaults.contains("weight_granularity")    ? "weight_granularity"
                                                                   : "granularity";
    // The class's own choice may have been spelled as well.
    if (data.contains(key) && data[key]["_type"] != "PerGroup") {
      return absl::InvalidArgumentError(absl::StrCat(
          "torchao: option group_size contradicts option ", key, ", expected PerGroup"));
    }
    data[key] = key == std::string("group_size") ? json(*request.group_size) : per_group;
  }
  const json out = {
      {"quant_method", "torchao"},
      {"quant_type",
       {{"default", {{"_type", request.quant_type}, {"_version", 2}, {"_data", data}}}}},
      {"modules_to_not_convert",
       request.modules_to_not_convert ? json(*request.modules_to_not_convert) : json()},
      {"include_input_output_embeddings", request.include_input_output_embeddings}};
  return out.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace quantd

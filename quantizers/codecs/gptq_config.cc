#include "quantizers/codecs/gptq_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr char kWhere[] = "quantization_config";
constexpr size_t kMaxPatternBytes = 1024;
constexpr size_t kMaxRules = 4096;

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status ReadGroupSize(ConfigFields& fields, const char* key, int64_t* group_size) {
  ASSIGN_OR_RETURN(const int64_t found, fields.Int(key, *group_size, -1, 1 << 30));
  if (found == 0) return fields.Wrong(key, "a positive integer, or -1 for whole rows");
  *group_size = found;
  return absl::OkStatus();
}

absl::Status ReadShare(ConfigFields& fields, const char* key, double most, double* value) {
  ASSIGN_OR_RETURN(const double found, fields.Float(key, *value));
  if (!(found >= 0 && found <= most)) return fields.Wrong(key, absl::StrCat("0 to ", most));
  *value = found;
  return absl::OkStatus();
}

// What a module may have of its own, from the top level, from `meta` or from a rule.
absl::Status ReadParameters(ConfigFields& fields, GptqParameters* parameters) {
  for (const char* key : {"w_bit", "bits"}) {  // the first one is a synonym of AutoGPTQ
    ASSIGN_OR_RETURN(const int64_t bits, fields.Int(key, parameters->bits, 2, 8));
    parameters->bits = static_cast<int>(bits);
  }
  for (const char* key : {"q_group_size", "group_size"}) {
    RETURN_IF_ERROR(ReadGroupSize(fields, key, &parameters->group_size));
  }
  ASSIGN_OR_RETURN(parameters->desc_act, fields.Bool("desc_act", parameters->desc_act));
  ASSIGN_OR_RETURN(parameters->sym, fields.Bool("sym", parameters->sym));
  ASSIGN_OR_RETURN(parameters->static_groups,
                   fields.Bool("static_groups", parameters->static_groups));
  ASSIGN_OR_RETURN(parameters->act_group_aware,
                   fields.Bool("act_group_aware", parameters->act_group_aware));
  RETURN_IF_ERROR(ReadShare(fields, "damp_percent", 1, &parameters->damp_percent));
  RETURN_IF_ERROR(ReadShare(fields, "damp_auto_increment", 1, &parameters->damp_auto_increment));
  return ReadShare(fields, "mse", 16, &parameters->mse);
}

// Where a dict comes from, by the keys that only one library has.
enum class Dialect { kGptqModel, kAutoGptq, kTransformers };

Dialect DialectOf(ConfigFields& fields) {
  if (fields.Contains("meta") || fields.Contains("method")) return Dialect::kGptqModel;
  for (const char* key : {"is_marlin_format", "model_file_base_name", "model_name_or_path"}) {
    if (fields.Contains(key)) return Dialect::kAutoGptq;
  }
  for (const char* key : {"tokenizer", "dataset", "backend", "use_exllama", "exllama_config",
                          "block_name_to_quantize", "modules_in_block_to_quantize"}) {
    if (fields.Contains(key)) return Dialect::kTransformers;
  }
  return Dialect::kGptqModel;
}

GptqConfig DefaultsOf(Dialect dialect) {
  GptqConfig config;
  if (dialect == Dialect::kAutoGptq) {
    config.parameters = {.group_size = -1,
                         .desc_act = true,
                         .act_group_aware = false,
                         .damp_percent = 0.01,
                         .damp_auto_increment = 0};
    config.fallback = false;
  } else if (dialect == Dialect::kTransformers) {
    config.parameters = {.damp_percent = 0.1, .damp_auto_increment = 0.0015};
  }
  return config;
}

absl::Status ReadFormat(ConfigFields& fields, GptqConfig* config) {
  ASSIGN_OR_RETURN(const bool marlin, fields.Bool("is_marlin_format", false));
  if (marlin) config->format = GptqFormat::kMarlin;
  for (const char* key : {"format", "checkpoint_format"}) {  // the last one is what readers ask
    ASSIGN_OR_RETURN(const std::string name, fields.String(key, ""));
    if (name.empty() || marlin) continue;
    const std::optional<GptqFormat> format = GptqFormatNamed(name);
    if (!format) return fields.Wrong(key, "gptq, gptq_v2, gptq_p or marlin");
    config->format = *format;
  }
  for (const char* key : {"quant_method", "method"}) {
    ASSIGN_OR_RETURN(const std::string method, fields.String(key, "gptq"));
    if (method != "gptq") return fields.Wrong(key, "gptq");
  }
  ASSIGN_OR_RETURN(const std::string words, fields.String("pack_dtype", "int32"));
  if (words != "int32" && words != "torch.int32") {
    return fields.Wrong("pack_dtype", "int32; codes in words of another width are not read");
  }
  return absl::OkStatus();
}

absl::Status ReadFallback(ConfigFields& fields, GptqConfig* config) {
  if (!fields.Contains("fallback")) return absl::OkStatus();
  config->fallback = fields.Has("fallback");
  if (!config->fallback) return absl::OkStatus();
  ASSIGN_OR_RETURN(ConfigFields fallback,
                   ConfigFields::Of(fields.Raw("fallback"), fields.Path("fallback")));
  ASSIGN_OR_RETURN(const std::string strategy, fallback.String("strategy", "rtn"));
  if (strategy != "rtn") return fallback.Wrong("strategy", "rtn");
  if (fallback.Has("smooth")) return fallback.Wrong("smooth", "null");
  if (!fallback.Has("threshold")) return absl::OkStatus();
  const nlohmann::json& threshold = fallback.Raw("threshold");
  absl::string_view text = threshold.is_string()
                               ? absl::string_view(threshold.get_ref<const std::string&>())
                               : absl::string_view();
  double percent;
  if (!absl::ConsumeSuffix(&text, "%") || !absl::SimpleAtod(text, &percent) ||
      !(percent >= 0 && percent <= 100)) {
    return fallback.Wrong("threshold", "a percentage as a text, \"0.5%\"");
  }
  config->fallback_share = percent / 100;
  return absl::OkStatus();
}

absl::Status ReadMeta(ConfigFields& fields, GptqConfig* config) {
  if (!fields.Has("meta")) return absl::OkStatus();
  ASSIGN_OR_RETURN(ConfigFields meta, ConfigFields::Of(fields.Raw("meta"), fields.Path("meta")));
  RETURN_IF_ERROR(ReadParameters(meta, &config->parameters));
  ASSIGN_OR_RETURN(config->true_sequential, meta.Bool("true_sequential", config->true_sequential));
  RETURN_IF_ERROR(ReadFallback(meta, config));
  if (!meta.Has("quantizer")) return absl::OkStatus();
  const nlohmann::json& quantizer = meta.Raw("quantizer");  // a text or a list of texts
  config->word_zeros = absl::StrContains(Dump(quantizer), "gptqmodel:");
  return absl::OkStatus();
}

// Lists of lists of names, or one list.
absl::Status ReadModules(ConfigFields& fields, GptqConfig* config) {
  constexpr char kKey[] = "modules_in_block_to_quantize";
  if (!fields.Has(kKey)) return absl::OkStatus();
  const absl::Status wrong = fields.Wrong(kKey, "a list of lists of module names");
  if (!fields.Raw(kKey).is_array()) return wrong;
  for (const nlohmann::json& stage : fields.Raw(kKey)) {
    const nlohmann::json names = stage.is_array() ? stage : nlohmann::json::array({stage});
    for (const nlohmann::json& name : names) {
      if (!name.is_string() || name.get_ref<const std::string&>().empty()) return wrong;
      config->modules_in_block.push_back(name.get<std::string>());
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<GptqRule> MakeRule(const std::string& key, const nlohmann::json& value) {
  const std::string where = absl::StrCat(
      "dynamic[\"", absl::Utf8SafeCEscape(absl::string_view(key).substr(0, 200)), "\"]");
  GptqRule rule;
  rule.key = key;
  rule.keeps = absl::StartsWith(key, "-:");
  const bool prefixed = rule.keeps || absl::StartsWith(key, "+:");
  const std::string pattern = prefixed ? key.substr(2) : key;
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  rule.pattern = std::make_shared<const RE2>(
      pattern.size() <= kMaxPatternBytes ? pattern : std::string("("), options);
  if (!rule.pattern->ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": the pattern is not accepted: ",
                     pattern.size() <= kMaxPatternBytes ? rule.pattern->error().substr(0, 200)
                                                        : std::string("longer than 1024 bytes"),
                     "; expected a regular expression of RE2 (no lookaround, no back-references)"));
  }
  const nlohmann::json overrides = value.is_null() ? nlohmann::json::object() : value;
  rule.overrides = Dump(overrides);
  if (rule.keeps) return rule;
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(overrides, where));
  GptqParameters checked;
  RETURN_IF_ERROR(ReadParameters(fields, &checked));
  ASSIGN_OR_RETURN(const std::string words, fields.String("pack_dtype", "int32"));
  if (words != "int32") return fields.Wrong("pack_dtype", "int32");
  return rule;
}

absl::Status CheckParameters(const GptqParameters& parameters, GptqFormat format) {
  const int bits = parameters.bits;
  const bool planar_only = bits == 5 || bits == 6 || bits == 7;
  if (planar_only && format != GptqFormat::kPlanar) {
    return absl::InvalidArgumentError(
        absl::StrCat("bits: found ", bits, " with the format ", NameOf(format),
                     ", expected 2, 3, 4 or 8; 5, 6 and 7 bits need the format gptq_p"));
  }
  if (format == GptqFormat::kMarlin && (bits != 4 || !parameters.sym || parameters.desc_act)) {
    return absl::InvalidArgumentError(
        "the marlin format holds 4 bits, symmetric, without desc_act only");
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view NameOf(GptqFormat format) {
  switch (format) {
    case GptqFormat::kV1:
      return "gptq";
    case GptqFormat::kV2:
      return "gptq_v2";
    case GptqFormat::kPlanar:
      return "gptq_p";
    case GptqFormat::kMarlin:
      return "marlin";
  }
  return "";
}

std::optional<GptqFormat> GptqFormatNamed(absl::string_view name) {
  for (const GptqFormat format :
       {GptqFormat::kV1, GptqFormat::kV2, GptqFormat::kPlanar, GptqFormat::kMarlin}) {
    if (name == NameOf(format)) return format;
  }
  return std::nullopt;
}

const GptqRule* GptqConfig::RuleFor(absl::string_view module) const {
  const re2::StringPiece name(module.data(), module.size());
  for (const bool keeps : {true, false}) {
    for (const GptqRule& rule : dynamic) {
      if (rule.keeps == keeps &&
          rule.pattern->Match(name, 0, name.size(), RE2::ANCHOR_START, nullptr, 0)) {
        return &rule;
      }
    }
  }
  return nullptr;
}

GptqParameters GptqConfig::ParametersUnder(const GptqRule* rule) const {
  GptqParameters found = parameters;
  if (rule == nullptr) return found;
  const nlohmann::json overrides = nlohmann::json::parse(rule->overrides, nullptr, false);
  ConfigFields fields(overrides, "dynamic");
  // Its values were checked when the rule was made.
  return ReadParameters(fields, &found).ok() ? found : parameters;
}

std::optional<GptqParameters> GptqConfig::Find(absl::string_view module) const {
  const GptqRule* rule = RuleFor(module);
  if (rule != nullptr && rule->keeps) return std::nullopt;
  return ParametersUnder(rule);
}

absl::StatusOr<std::vector<GptqRule>> ParseGptqRules(const std::string& json) {
  RETURN_IF_ERROR(ParseStrictJsonObject(json, "dynamic").status());
  std::vector<GptqRule> rules;
  // Once more, because the order counts.
  const nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(json, nullptr, false);
  for (const auto& [key, value] : ordered.items()) {
    if (rules.size() == kMaxRules) {
      return absl::InvalidArgumentError(
          absl::StrCat("dynamic: more than ", kMaxRules, " rules; merge their patterns"));
    }
    ASSIGN_OR_RETURN(GptqRule rule, MakeRule(key, nlohmann::json(value)));
    rules.push_back(std::move(rule));
  }
  return rules;
}

GptqRule GptqHeadRule() {
  return {.key = "lm_head",
          .pattern = std::make_shared<const RE2>("lm_head"),
          .overrides = R"({"bits":8,"desc_act":false,"group_size":32,"mse":2.4,"sym":true})"};
}

absl::StatusOr<GptqConfig> ParseGptqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJsonObject(json, kWhere));
  ConfigFields fields(document, kWhere);
  GptqConfig config = DefaultsOf(DialectOf(fields));
  RETURN_IF_ERROR(ReadMeta(fields, &config));
  RETURN_IF_ERROR(ReadParameters(fields, &config.parameters));
  if (config.parameters.desc_act) config.parameters.act_group_aware = false;
  RETURN_IF_ERROR(ReadFormat(fields, &config));
  ASSIGN_OR_RETURN(config.lm_head, fields.Bool("lm_head", false));
  ASSIGN_OR_RETURN(config.true_sequential, fields.Bool("true_sequential", config.true_sequential));
  RETURN_IF_ERROR(ReadModules(fields, &config));
  if (fields.Has("dynamic")) {
    RETURN_IF_ERROR(ConfigFields::Of(fields.Raw("dynamic"), fields.Path("dynamic")).status());
    const nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(json, nullptr, false);
    const std::string rules =
        ordered["dynamic"].dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    ASSIGN_OR_RETURN(config.dynamic, ParseGptqRules(rules));
  }
  RETURN_IF_ERROR(CheckGptqConfig(config));
  return config;
}

absl::StatusOr<std::string> GptqConfigOfFile(const std::string& json) {
  ASSIGN_OR_RETURN(nlohmann::json document, ParseStrictJsonObject(json, "quantize_config.json"));
  if (document.contains("quant_method")) return json;
  nlohmann::ordered_json ordered = nlohmann::ordered_json::parse(json, nullptr, false);
  ordered["quant_method"] = "gptq";
  // Only AutoGPTQ left it out: its defaults are meant.
  if (!ordered.contains("is_marlin_format")) ordered["is_marlin_format"] = false;
  return ordered.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::Status CheckGptqConfig(const GptqConfig& config) {
  RETURN_IF_ERROR(CheckParameters(config.parameters, config.format));
  for (const GptqRule& rule : config.dynamic) {
    if (rule.keeps) continue;
    const absl::Status status = CheckParameters(config.ParametersUnder(&rule), config.format);
    if (!status.ok())
      return absl::InvalidArgumentError(absl::StrCat("dynamic: ", status.message()));
  }
  return absl::OkStatus();
}

std::string WriteGptqConfig(const GptqConfig& config) {
  const GptqParameters& parameters = config.parameters;
  nlohmann::json fallback;
  if (config.fallback) {
    const std::string threshold = absl::StrCat(config.fallback_share * 100, "%");
    fallback = {{"strategy", "rtn"}, {"threshold", threshold}, {"smooth", nullptr}};
  }
  nlohmann::json json = {
      {"quant_method", "gptq"},
      {"method", "gptq"},
      {"format", NameOf(config.format)},
      {"checkpoint_format", NameOf(config.format)},
      {"bits", parameters.bits},
      {"group_size", parameters.group_size},
      {"desc_act", parameters.desc_act},
      {"sym", parameters.sym},
      {"lm_head", config.lm_head},
      {"pack_dtype", "int32"},
      {"meta",
       {// GPTQModel's loader wants to see its name before it believes asymmetric v1 files.
        {"quantizer", {"quantd", "gptqmodel:7.7.0"}},
        {"damp_percent", parameters.damp_percent},
        {"damp_auto_increment", parameters.damp_auto_increment},
        {"static_groups", parameters.static_groups},
        {"true_sequential", config.true_sequential},
        {"mse", parameters.mse},
        {"gptaq", nullptr},
        {"foem", nullptr},
        {"act_group_aware", parameters.act_group_aware},
        {"fallback", fallback}}}};
  if (!config.block_name.empty()) json["block_name_to_quantize"] = config.block_name;
  if (!config.modules_in_block.empty()) {
    json["modules_in_block_to_quantize"] = {config.modules_in_block};
  }
  if (!config.dynamic.empty()) {
    nlohmann::json rules = nlohmann::json::object();
    for (const GptqRule& rule : config.dynamic) {
      rules[rule.key] = nlohmann::json::parse(rule.overrides, nullptr, false);
    }
    json["dynamic"] = rules;
  }
  return Dump(json);
}

}  // namespace quantd

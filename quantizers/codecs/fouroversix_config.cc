#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/fouroversix.h"

namespace quantd {
namespace {

using Rule = FourOverSixSpec::Rule;

constexpr std::array<std::pair<absl::string_view, Rule>, 5> kRules = {
    {{"mse", Rule::kMse},
     {"mae", Rule::kMae},
     {"abs_max", Rule::kAbsMax},
     {"static_4", Rule::kStatic4},
     {"static_6", Rule::kStatic6}}};
constexpr const char* kOtherTypes[] = {"nvfp6_e2m3", "nvfp6_e3m2", "nvint4", "if4"};

const Rule* RuleNamed(absl::string_view name) {
  for (const auto& [spelling, rule] : kRules) {
    if (spelling == name) return &rule;
  }
  return nullptr;
}

// What only matters while a model is trained or runs on a GPU: kept out of the recipe, but checked
// for its type.
absl::Status CheckUnused(ConfigFields& fields) {
  for (const char* key : {"activation_dtype", "activation_scale_rule", "gradient_dtype",
                          "gradient_scale_rule", "matmul_backend", "quantize_backend"}) {
    RETURN_IF_ERROR(fields.String(key, "").status());
  }
  ASSIGN_OR_RETURN(const bool master, fields.Bool("keep_master_weights", false));
  if (master) {
    return absl::UnimplementedError(
        "quantization_config.keep_master_weights: found true, expected false; such a checkpoint "
        "keeps its weights unquantized");
  }
  if (fields.Has("module_config_overrides") && !fields.Raw("module_config_overrides").empty()) {
    return absl::UnimplementedError(
        "quantization_config.module_config_overrides: configurations of single modules are not "
        "supported; expected null");
  }
  return absl::OkStatus();
}

}  // namespace

FourOverSixSpec FourOverSixConfig::spec() const {
  const Rule* rule = RuleNamed(scale_rule);
  return {.rule = rule == nullptr ? Rule::kMse : *rule,
          .is_mx = dtype == "mxfp4",
          .square = weight_scale_2d};
}

absl::StatusOr<FourOverSixConfig> ParseFourOverSixConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  FourOverSixConfig config;
  ASSIGN_OR_RETURN(config.dtype, fields.String("dtype", config.dtype));
  ASSIGN_OR_RETURN(config.dtype, fields.String("weight_dtype", config.dtype));
  ASSIGN_OR_RETURN(config.scale_rule, fields.String("scale_rule", config.scale_rule));
  ASSIGN_OR_RETURN(config.scale_rule, fields.String("weight_scale_rule", config.scale_rule));
  ASSIGN_OR_RETURN(config.weight_scale_2d, fields.Bool("weight_scale_2d", false));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckUnused(fields));
  RETURN_IF_ERROR(CheckFourOverSixConfig(config));
  return config;
}

absl::Status CheckFourOverSixConfig(const FourOverSixConfig& config) {
  const auto wrong = [](absl::string_view key, absl::string_view found,
                        absl::string_view expected) {
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": found \"", absl::Utf8SafeCEscape(found.substr(0, 200)), "\", expected ", expected));
  };
  if (std::find(std::begin(kOtherTypes), std::end(kOtherTypes), config.dtype) !=
      std::end(kOtherTypes)) {
    return absl::UnimplementedError(
        absl::StrCat("dtype: found \"", config.dtype, "\", supported are nvfp4 and mxfp4"));
  }
  if (config.dtype != "nvfp4" && config.dtype != "mxfp4") {
    return wrong("dtype", config.dtype, "nvfp4 or mxfp4");
  }
  if (RuleNamed(config.scale_rule) == nullptr) {
    return wrong("scale_rule", config.scale_rule, "mse, mae, abs_max, static_4 or static_6");
  }
  if (config.dtype == "mxfp4" && !config.spec().is_static()) {
    return wrong("scale_rule", config.scale_rule, "static_4 or static_6 for mxfp4");
  }
  return absl::OkStatus();
}

std::string WriteFourOverSixConfig(const FourOverSixConfig& config) {
  nlohmann::json json = {{"quant_method", "fouroversix"},
                         {"dtype", config.dtype},
                         {"scale_rule", config.scale_rule},
                         {"weight_scale_2d", config.weight_scale_2d},
                         {"keep_master_weights", false},
                         {"output_dtype", "bfloat16"},
                         {"modules_to_not_convert", config.modules_to_not_convert}};
  for (const char* key : {"activation_dtype", "activation_scale_rule", "gradient_dtype",
                          "gradient_scale_rule", "matmul_backend", "module_config_overrides",
                          "quantize_backend", "weight_dtype", "weight_scale_rule"}) {
    json[key] = nullptr;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

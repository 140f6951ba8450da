#include "quantizers/codecs/fp8_config.h"

#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"

namespace quantd {
namespace {

constexpr uint64_t kMaxTile = uint64_t{1} << 24;

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

nlohmann::json ListOrNull(const std::optional<std::vector<std::string>>& list) {
  return list ? nlohmann::json(*list) : nlohmann::json();
}

absl::Status ReadSkipped(ConfigFields& fields, absl::string_view key,
                         std::optional<std::vector<std::string>>* list) {
  if (!fields.Has(key)) return absl::OkStatus();
  ASSIGN_OR_RETURN(*list, fields.StringList(key));
  return absl::OkStatus();
}

// weight_block_size: [rows, columns], or null for one scale; absent leaves the default.
absl::Status ReadTile(ConfigFields& fields, BlockShape* tile) {
  constexpr absl::string_view kExpected = "null or [rows, columns], both positive";
  if (!fields.Contains("weight_block_size")) return absl::OkStatus();
  const nlohmann::json& value = fields.Raw("weight_block_size");
  if (value.is_null()) {
    *tile = {.rows = 0, .cols = 0};
    return absl::OkStatus();
  }
  if (!value.is_array() || value.size() != 2) return fields.Wrong("weight_block_size", kExpected);
  for (const nlohmann::json& item : value) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() == 0 ||
        item.get<uint64_t>() > kMaxTile) {
      return fields.Wrong("weight_block_size", kExpected);
    }
  }
  *tile = {.rows = value[0].get<int64_t>(), .cols = value[1].get<int64_t>()};
  return absl::OkStatus();
}

absl::Status CheckWord(absl::string_view key, absl::string_view found, absl::string_view a,
                       absl::string_view b) {
  if (found == a || found == b) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, ": found \"",
                                                 absl::Utf8SafeCEscape(found.substr(0, 200)),
                                                 "\", expected ", a, " or ", b));
}

}  // namespace

absl::StatusOr<FineGrainedFp8Config> ParseFineGrainedFp8Config(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  FineGrainedFp8Config config;
  ASSIGN_OR_RETURN(const std::string method, fields.String("quant_method", "fp8"));
  if (method == "mxfp8") {
    config.tile = {.rows = 1, .cols = 32};
    config.scale_fmt = "ue8m0";
  }
  RETURN_IF_ERROR(ReadSkipped(fields, "ignored_layers", &config.modules_to_not_convert));
  RETURN_IF_ERROR(ReadSkipped(fields, "modules_to_not_convert", &config.modules_to_not_convert));
  config.has_modules_to_convert =
      fields.Has("modules_to_convert") && !fields.Raw("modules_to_convert").empty();
  ASSIGN_OR_RETURN(config.activation_scheme, fields.String("activation_scheme", "dynamic"));
  RETURN_IF_ERROR(ReadTile(fields, &config.tile));
  ASSIGN_OR_RETURN(config.scale_fmt, fields.String("scale_fmt", config.scale_fmt));
  ASSIGN_OR_RETURN(config.expert_dtype, fields.String("expert_dtype", "fp8"));
  RETURN_IF_ERROR(CheckFineGrainedFp8Config(config));
  return config;
}

absl::Status CheckFineGrainedFp8Config(const FineGrainedFp8Config& config) {
  RETURN_IF_ERROR(CheckWord("activation_scheme", config.activation_scheme, "dynamic", "static"));
  RETURN_IF_ERROR(CheckWord("scale_fmt", config.scale_fmt, "float", "ue8m0"));
  RETURN_IF_ERROR(CheckWord("expert_dtype", config.expert_dtype, "fp8", "fp4"));
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteFineGrainedFp8Config(const FineGrainedFp8Config& config) {
  nlohmann::json json = {
      {"quant_method", "fp8"},
      {"modules_to_not_convert", ListOrNull(config.modules_to_not_convert)},
      {"modules_to_convert", nullptr},
      {"activation_scheme", config.activation_scheme},
      {"weight_block_size", nullptr},
      {"dequantize", false},
      {"scale_fmt", config.scale_fmt},
      {"expert_dtype", config.expert_dtype},
  };
  if (config.tile.rows > 0) json["weight_block_size"] = {config.tile.rows, config.tile.cols};
  return Dump(json);
}

absl::StatusOr<FbgemmFp8Config> ParseFbgemmFp8Config(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  FbgemmFp8Config config;
  ASSIGN_OR_RETURN(config.activation_scale_ub, fields.Float("activation_scale_ub", 1200.0));
  RETURN_IF_ERROR(ReadSkipped(fields, "modules_to_not_convert", &config.modules_to_not_convert));
  RETURN_IF_ERROR(CheckFbgemmFp8Config(config));
  return config;
}

absl::Status CheckFbgemmFp8Config(const FbgemmFp8Config& config) {
  if (!std::isfinite(config.activation_scale_ub) || config.activation_scale_ub <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "activation_scale_ub: found ", config.activation_scale_ub, ", expected a positive number"));
  }
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteFbgemmFp8Config(const FbgemmFp8Config& config) {
  return Dump({{"quant_method", "fbgemm_fp8"},
               {"activation_scale_ub", config.activation_scale_ub},
               {"modules_to_not_convert", ListOrNull(config.modules_to_not_convert)}});
}

}  // namespace quantd

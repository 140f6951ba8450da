#include "quantizers/codecs/awq_config.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 31;

struct VersionName {
  absl::string_view name;
  AwqVersion version;
};

// The first name of a version is its own. exllama, exllamav2 and ipex are what gemm files become
// when they are loaded.
constexpr VersionName kVersionNames[] = {
    {"gemm", AwqVersion::kGemm},          {"gemv", AwqVersion::kGemv},
    {"gemv_fast", AwqVersion::kGemvFast}, {"marlin", AwqVersion::kMarlin},
    {"exllama", AwqVersion::kGemm},       {"exllamav2", AwqVersion::kGemm},
    {"ipex", AwqVersion::kGemm},          {"llm-awq", AwqVersion::kGemvFast},
};

// The value of the first of two spellings that is there.
absl::StatusOr<int64_t> IntOf(ConfigFields& fields, absl::string_view key, absl::string_view old,
                              int64_t fallback, int64_t min, int64_t max) {
  const absl::string_view present = !fields.Has(key) && fields.Has(old) ? old : key;
  return fields.Int(present, fallback, min, max);
}

// `version`, `format` and `checkpoint_format` say the same where several are there.
absl::StatusOr<AwqVersion> VersionOf(ConfigFields& fields) {
  std::optional<AwqVersion> found;
  for (const char* key : {"version", "format", "checkpoint_format"}) {
    if (!fields.Has(key)) continue;
    ASSIGN_OR_RETURN(const std::string name, fields.String(key, ""));
    const std::optional<AwqVersion> version = AwqVersionNamed(name);
    if (!version) {
      return fields.Wrong(
          key, "gemm, gemv, gemv_fast, marlin, exllama, exllamav2, ipex or llm-awq in any case");
    }
    if (found && *found != *version) {
      return fields.Wrong(key, absl::StrCat("the layout of the other keys, ", NameOf(*found)));
    }
    found = version;
  }
  return found.value_or(AwqVersion::kGemm);
}

absl::Status CheckCombination(const AwqConfig& config, ConfigFields& fields) {
  if (config.version != AwqVersion::kGemm && config.bits != 4) {
    return fields.Wrong("bits", absl::StrCat("4, the only width of ", NameOf(config.version)));
  }
  if (config.version == AwqVersion::kMarlin && config.zero_point) {
    return fields.Wrong("zero_point", "false: marlin stores no zero points");
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view NameOf(AwqVersion version) {
  for (const VersionName& known : kVersionNames) {
    if (known.version == version) return known.name;
  }
  return "gemm";
}

std::optional<AwqVersion> AwqVersionNamed(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (const VersionName& known : kVersionNames) {
    if (known.name == lower) return known.version;
  }
  return std::nullopt;
}

absl::StatusOr<AwqConfig> ParseAwqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  AwqConfig config;
  ASSIGN_OR_RETURN(const int64_t bits, IntOf(fields, "bits", "w_bit", 4, 2, 8));
  config.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(config.group_size,
                   IntOf(fields, "group_size", "q_group_size", 128, -1, kMaxGroup));
  if (config.group_size == 0) return fields.Wrong("group_size", "-1 or a positive number");
  ASSIGN_OR_RETURN(config.zero_point, fields.Bool("zero_point", true));
  ASSIGN_OR_RETURN(config.version, VersionOf(fields));
  ASSIGN_OR_RETURN(const std::string word, fields.String("pack_dtype", "int32"));
  if (word != "int32") return fields.Wrong("pack_dtype", "int32");
  ASSIGN_OR_RETURN(const std::string provider, fields.String("provider", ""));
  config.by_auto_round = provider == "auto-round";
  config.varies = fields.Has("dynamic") && !fields.Raw("dynamic").empty();
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
    RETURN_IF_ERROR(CheckSkipPatterns(*config.modules_to_not_convert, "modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckCombination(config, fields));
  return config;
}

absl::StatusOr<std::string> AwqConfigOfFile(const std::string& json) {
  ASSIGN_OR_RETURN(nlohmann::json document, ParseStrictJsonObject(json, "quant_config.json"));
  document["quant_method"] = "awq";
  return document.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string WriteAwqConfig(const AwqConfig& config) {
  nlohmann::json json = {{"quant_method", "awq"},
                         {"bits", config.bits},
                         {"group_size", config.group_size},
                         {"zero_point", config.zero_point},
                         {"version", NameOf(config.version)},
                         {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

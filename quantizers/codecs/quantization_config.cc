#include "quantizers/codecs/quantization_config.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/awq_config.h"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/gptq_config.h"
#include "quantizers/codecs/quanto_config.h"
#include "re2/re2.h"

namespace quantd {
namespace {

constexpr char kWhere[] = "quantization_config";

// {"model.layers.0.mlp.up_proj": {"weights": "qint4", "activations": "none"}, ...}
bool IsQuantoMap(const nlohmann::json& document) {
  return !document.empty() && std::ranges::all_of(document, [](const nlohmann::json& entry) {
    return entry.is_object() && entry.contains("weights");
  });
}

}  // namespace

absl::StatusOr<std::string> QuantizationConfigIn(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJsonObject(json, kWhere));
  for (const char* key : {"quant_method", "load_in_8bit", "load_in_4bit"}) {
    if (document.contains(key)) return json;
  }
  if (document.contains(kWhere)) {
    // Rules in it may go by their order.
    return nlohmann::ordered_json::parse(json)[kWhere].dump(
        -1, ' ', false, nlohmann::json::error_handler_t::replace);
  }
  if (IsQuantoMap(document)) return QuantoConfigOfMap(json);
  if (document.contains("w_bit")) return AwqConfigOfFile(json);
  if (document.contains("desc_act")) return GptqConfigOfFile(json);
  return json;
}

absl::StatusOr<std::string> QuantMethodOf(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document, ParseStrictJsonObject(json, kWhere));
  ConfigFields fields(document, kWhere);
  ASSIGN_OR_RETURN(const bool in_8bit, fields.Bool("load_in_8bit", false));
  ASSIGN_OR_RETURN(const bool in_4bit, fields.Bool("load_in_4bit", false));
  if (in_8bit || in_4bit) return std::string("bitsandbytes");
  ASSIGN_OR_RETURN(const std::string method, fields.String("quant_method", ""));
  if (method.empty()) {
    return fields.Wrong("quant_method",
                        "the name of a quantization method (optimum-quanto's configuration is "
                        "quanto_qmap.json)");
  }
  return method;
}

absl::Status CheckSkipPatterns(const std::vector<std::string>& patterns, absl::string_view key) {
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  for (const std::string& pattern : patterns) {
    const RE2 regex(pattern, options);
    if (!pattern.empty() && pattern.size() <= 1024 && regex.ok()) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        key, ": the pattern \"", absl::Utf8SafeCEscape(pattern.substr(0, 200)), "\" is ",
        pattern.empty()         ? "empty"
        : pattern.size() > 1024 ? "longer than 1024 bytes"
                                : "invalid",
        regex.ok() ? "" : absl::StrCat(" (", regex.error().substr(0, 200), ")"),
        "; expected a module name or a regular expression of RE2"));
  }
  return absl::OkStatus();
}

}  // namespace quantd

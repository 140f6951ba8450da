#include "quantizers/codecs/quantization_config.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "re2/re2.h"

namespace quantd {

absl::StatusOr<std::string> QuantMethodOf(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  ASSIGN_OR_RETURN(const bool in_8bit, fields.Bool("load_in_8bit", false));
  ASSIGN_OR_RETURN(const bool in_4bit, fields.Bool("load_in_4bit", false));
  if (in_8bit || in_4bit) return std::string("bitsandbytes");
  ASSIGN_OR_RETURN(const std::string method, fields.String("quant_method", ""));
  if (method.empty()) return fields.Wrong("quant_method", "the name of a quantization method");
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

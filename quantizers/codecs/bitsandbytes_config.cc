#include "quantizers/codecs/bitsandbytes_config.h"

#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/dtype.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"

namespace quantd {
namespace {

absl::Status CheckDType(absl::string_view key, absl::string_view name, bool storage) {
  const auto dtype = DTypeFromTorch(name);
  const bool is_float = dtype == DType::kF16 || dtype == DType::kBF16 || dtype == DType::kF32;
  const bool is_storage = dtype == DType::kU8 || dtype == DType::kI8 || dtype == DType::kF64;
  if (is_float || (storage && is_storage)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      key, ": found \"", absl::Utf8SafeCEscape(name.substr(0, 200)),
      "\", expected float16, bfloat16 or float32", storage ? ", uint8, int8 or float64" : ""));
}

}  // namespace

absl::StatusOr<BitsAndBytesConfig> ParseBitsAndBytesConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  BitsAndBytesConfig config;
  ASSIGN_OR_RETURN(config.load_in_8bit, fields.Bool("load_in_8bit", false));
  ASSIGN_OR_RETURN(config.load_in_4bit, fields.Bool("load_in_4bit", false));
  ASSIGN_OR_RETURN(config.llm_int8_threshold, fields.Float("llm_int8_threshold", 6.0));
  if (fields.Has("llm_int8_skip_modules")) {
    ASSIGN_OR_RETURN(config.llm_int8_skip_modules, fields.StringList("llm_int8_skip_modules"));
  }
  ASSIGN_OR_RETURN(config.llm_int8_enable_fp32_cpu_offload,
                   fields.Bool("llm_int8_enable_fp32_cpu_offload", false));
  ASSIGN_OR_RETURN(config.llm_int8_has_fp16_weight, fields.Bool("llm_int8_has_fp16_weight", false));
  ASSIGN_OR_RETURN(config.bnb_4bit_quant_type, fields.String("bnb_4bit_quant_type", "fp4"));
  ASSIGN_OR_RETURN(config.bnb_4bit_use_double_quant,
                   fields.Bool("bnb_4bit_use_double_quant", false));
  ASSIGN_OR_RETURN(const std::string compute, fields.String("bnb_4bit_compute_dtype", "float32"));
  ASSIGN_OR_RETURN(const std::string storage, fields.String("bnb_4bit_quant_storage", "uint8"));
  config.bnb_4bit_compute_dtype = std::string(absl::StripPrefix(compute, "torch."));
  config.bnb_4bit_quant_storage = std::string(absl::StripPrefix(storage, "torch."));
  RETURN_IF_ERROR(CheckBitsAndBytesConfig(config));
  return config;
}

absl::Status CheckBitsAndBytesConfig(const BitsAndBytesConfig& config) {
  if (config.load_in_4bit == config.load_in_8bit) {
    return absl::InvalidArgumentError(absl::StrCat("load_in_4bit and load_in_8bit are both ",
                                                   config.load_in_4bit ? "true" : "false",
                                                   "; set exactly one"));
  }
  if (config.bnb_4bit_quant_type != "fp4" && config.bnb_4bit_quant_type != "nf4") {
    return absl::InvalidArgumentError(absl::StrCat(
        "bnb_4bit_quant_type: found \"",
        absl::Utf8SafeCEscape(absl::string_view(config.bnb_4bit_quant_type).substr(0, 200)),
        "\", expected fp4 or nf4"));
  }
  if (!std::isfinite(config.llm_int8_threshold) || config.llm_int8_threshold < 0) {
    return absl::InvalidArgumentError(absl::StrCat("llm_int8_threshold: found ",
                                                   config.llm_int8_threshold,
                                                   ", expected a number of at least 0"));
  }
  if (config.load_in_8bit && config.llm_int8_has_fp16_weight) {
    return absl::InvalidArgumentError(
        "llm_int8_has_fp16_weight: found true, expected false; such a checkpoint keeps its "
        "16-bit weights and is not quantized");
  }
  RETURN_IF_ERROR(CheckDType("bnb_4bit_compute_dtype", config.bnb_4bit_compute_dtype, false));
  RETURN_IF_ERROR(CheckDType("bnb_4bit_quant_storage", config.bnb_4bit_quant_storage, true));
  return CheckSkipPatterns(config.llm_int8_skip_modules.value_or(std::vector<std::string>{}),
                           "llm_int8_skip_modules");
}

std::string WriteBitsAndBytesConfig(const BitsAndBytesConfig& config) {
  nlohmann::json json = {
      {"_load_in_4bit", config.load_in_4bit},
      {"_load_in_8bit", config.load_in_8bit},
      {"bnb_4bit_compute_dtype", config.bnb_4bit_compute_dtype},
      {"bnb_4bit_quant_storage", config.bnb_4bit_quant_storage},
      {"bnb_4bit_quant_type", config.bnb_4bit_quant_type},
      {"bnb_4bit_use_double_quant", config.bnb_4bit_use_double_quant},
      {"llm_int8_enable_fp32_cpu_offload", config.llm_int8_enable_fp32_cpu_offload},
      {"llm_int8_has_fp16_weight", config.llm_int8_has_fp16_weight},
      {"llm_int8_skip_modules", nullptr},
      {"llm_int8_threshold", config.llm_int8_threshold},
      {"load_in_4bit", config.load_in_4bit},
      {"load_in_8bit", config.load_in_8bit},
      {"quant_method", "bitsandbytes"},
  };
  if (config.llm_int8_skip_modules) json["llm_int8_skip_modules"] = *config.llm_int8_skip_modules;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

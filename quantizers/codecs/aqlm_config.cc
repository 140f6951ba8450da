#include "quantizers/codecs/aqlm_config.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

// Weights that one code stands for: bounds what a small file can become.
constexpr int kMaxGroup = 64;
constexpr int kMaxCodebooks = 64;

absl::Status CheckRange(absl::string_view key, int value, int max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(key, ": found ", value, ", expected 1 to ", max));
}

}  // namespace

bool AqlmConfig::IsSkipped(absl::string_view module) const {
  const std::string parameter = absl::StrCat(module, ".weight");
  return std::any_of(
      linear_weights_not_to_quantize.begin(), linear_weights_not_to_quantize.end(),
      [&](const std::string& pattern) {
        // Most are names of parameters, which no module has.
        const bool is_name = absl::EndsWith(pattern, ".weight") || absl::EndsWith(pattern, ".bias");
        return pattern == parameter || (!is_name && MatchesSkipPattern(module, pattern));
      });
}

absl::StatusOr<AqlmConfig> ParseAqlmConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  AqlmConfig config;
  ASSIGN_OR_RETURN(const int64_t in_group, fields.Int("in_group_size", 8, 1, kMaxGroup));
  ASSIGN_OR_RETURN(const int64_t out_group, fields.Int("out_group_size", 1, 1, kMaxGroup));
  ASSIGN_OR_RETURN(const int64_t codebooks, fields.Int("num_codebooks", 1, 1, kMaxCodebooks));
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("nbits_per_codebook", 16, 1, 16));
  config.in_group_size = static_cast<int>(in_group);
  config.out_group_size = static_cast<int>(out_group);
  config.num_codebooks = static_cast<int>(codebooks);
  config.nbits_per_codebook = static_cast<int>(bits);
  ASSIGN_OR_RETURN(config.linear_weights_not_to_quantize,
                   fields.StringList("linear_weights_not_to_quantize"));
  RETURN_IF_ERROR(CheckAqlmConfig(config));
  return config;
}

absl::Status CheckAqlmConfig(const AqlmConfig& config) {
  RETURN_IF_ERROR(CheckRange("in_group_size", config.in_group_size, kMaxGroup));
  RETURN_IF_ERROR(CheckRange("out_group_size", config.out_group_size, kMaxGroup));
  if (config.in_group_size * config.out_group_size > kMaxGroup) {
    return absl::InvalidArgumentError(absl::StrCat("in_group_size * out_group_size: found ",
                                                   config.in_group_size * config.out_group_size,
                                                   ", expected 1 to ", kMaxGroup));
  }
  RETURN_IF_ERROR(CheckRange("num_codebooks", config.num_codebooks, kMaxCodebooks));
  RETURN_IF_ERROR(CheckRange("nbits_per_codebook", config.nbits_per_codebook, 16));
  return CheckSkipPatterns(config.linear_weights_not_to_quantize, "linear_weights_not_to_quantize");
}

std::string WriteAqlmConfig(const AqlmConfig& config) {
  const nlohmann::json json = {
      {"quant_method", "aqlm"},
      {"in_group_size", config.in_group_size},
      {"out_group_size", config.out_group_size},
      {"num_codebooks", config.num_codebooks},
      {"nbits_per_codebook", config.nbits_per_codebook},
      {"linear_weights_not_to_quantize", config.linear_weights_not_to_quantize}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

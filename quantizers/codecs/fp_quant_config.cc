#include <algorithm>
#include <initializer_list>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/fp_quant.h"

namespace quantd {
namespace {

// INVALID_ARGUMENT unless `found` is one of `allowed`; `where` says for what it is.
absl::Status CheckOneOf(absl::string_view key, absl::string_view found,
                        const std::vector<absl::string_view>& allowed,
                        absl::string_view where = "") {
  if (std::find(allowed.begin(), allowed.end(), found) != allowed.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": found \"", absl::Utf8SafeCEscape(found.substr(0, 200)), "\", expected ",
                   absl::StrJoin(allowed, " or "), where));
}

}  // namespace

Fp4Blocks FpQuantConfig::blocks(float global_scale) const {
  using Scale = Fp4Blocks::Scale;
  return {.scale = !is_mx()                    ? Scale::kE4M3OfMax
                   : forward_method == "quest" ? Scale::kPowerOfDeviation
                                               : Scale::kPowerOfMax,
          .global_scale = global_scale,
          .half_to_even = !pseudoquantization};
}

std::string FpQuantConfig::Describe() const {
  return absl::StrCat(forward_dtype, " ", forward_method, ", ", transform_init,
                      transform_init == "identity" ? "" : absl::StrCat(" ", hadamard_group_size),
                      pseudoquantization ? ", pseudoquantized" : "",
                      store_master_weights ? ", master weights" : "");
}

int64_t FpQuantGroupOf(const std::string& forward_dtype) {
  return forward_dtype == "mxfp4" ? 32 : 16;
}

absl::StatusOr<FpQuantConfig> ParseFpQuantConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  FpQuantConfig config;
  ASSIGN_OR_RETURN(config.forward_dtype, fields.String("forward_dtype", config.forward_dtype));
  ASSIGN_OR_RETURN(config.forward_method, fields.String("forward_method", config.forward_method));
  ASSIGN_OR_RETURN(config.backward_dtype, fields.String("backward_dtype", config.backward_dtype));
  ASSIGN_OR_RETURN(config.store_master_weights, fields.Bool("store_master_weights", false));
  ASSIGN_OR_RETURN(
      config.hadamard_group_size,
      fields.Int("hadamard_group_size", FpQuantGroupOf(config.forward_dtype), 1, 1 << 20));
  ASSIGN_OR_RETURN(config.pseudoquantization, fields.Bool("pseudoquantization", false));
  ASSIGN_OR_RETURN(config.transform_init, fields.String("transform_init", config.transform_init));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckFpQuantConfig(config));
  return config;
}

absl::Status CheckFpQuantConfig(const FpQuantConfig& config) {
  RETURN_IF_ERROR(CheckOneOf("forward_dtype", config.forward_dtype, {"nvfp4", "mxfp4"}));
  const std::string of = absl::StrCat(" for ", config.forward_dtype);
  const bool is_mx = config.is_mx();
  RETURN_IF_ERROR(
      is_mx ? CheckOneOf("forward_method", config.forward_method, {"abs_max", "quest"}, of)
            : CheckOneOf("forward_method", config.forward_method, {"abs_max"}, of));
  RETURN_IF_ERROR(
      is_mx ? CheckOneOf("backward_dtype", config.backward_dtype, {"bf16", "mxfp8", "mxfp4"}, of)
            : CheckOneOf("backward_dtype", config.backward_dtype, {"bf16"}, of));
  RETURN_IF_ERROR(
      CheckOneOf("transform_init", config.transform_init, {"hadamard", "identity", "gsr"}));
  const int64_t size = config.hadamard_group_size;
  if (size == 32 || size == 64 || size == 128 || (size == 16 && !is_mx)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("hadamard_group_size: found ", size, ", expected ",
                                                 is_mx ? "" : "16, ", "32, 64 or 128", of));
}

absl::Status CheckFpQuantRuns(const FpQuantConfig& config) {
  if (config.backward_dtype == "bf16") return absl::OkStatus();
  if (config.pseudoquantization) {
    return absl::InvalidArgumentError(
        absl::StrCat("backward_dtype: found \"", config.backward_dtype,
                     "\", expected bf16: fp_quant's layers know no other with "
                     "pseudoquantization"));
  }
  if (config.backward_dtype == "mxfp8" || config.store_master_weights) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "backward_dtype: found \"mxfp4\", expected bf16 or mxfp8: fp_quant's layers know mxfp4 with "
      "store_master_weights alone");
}

std::string WriteFpQuantConfig(const FpQuantConfig& config) {
  const nlohmann::json json = {{"quant_method", "fp_quant"},
                               {"forward_dtype", config.forward_dtype},
                               {"forward_method", config.forward_method},
                               {"backward_dtype", config.backward_dtype},
                               {"store_master_weights", config.store_master_weights},
                               {"hadamard_group_size", config.hadamard_group_size},
                               {"pseudoquantization", config.pseudoquantization},
                               {"transform_init", config.transform_init},
                               {"modules_to_not_convert", config.modules_to_not_convert}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

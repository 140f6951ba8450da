#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/sinq.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 24;

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::string TorchName(DType dtype) {
  return dtype == DType::kF16 ? "torch.float16"
                              : (dtype == DType::kBF16 ? "torch.bfloat16" : "torch.float32");
}

}  // namespace

absl::StatusOr<SinqConfig> ParseSinqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  SinqConfig config;
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("nbits", config.spec.bits, 1, 8));
  config.spec.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(config.spec.group_size,
                   fields.Int("group_size", config.spec.group_size, 1, kMaxGroup));
  ASSIGN_OR_RETURN(config.method, fields.String("method", config.method));
  ASSIGN_OR_RETURN(const std::string tiling, fields.String("tiling_mode", "1D"));
  if (tiling != "1D") {
    return absl::UnimplementedError(
        absl::StrCat(fields.Path("tiling_mode"), ": found \"", tiling,
                     "\", expected 1D: square tiles scale columns more than once"));
  }
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckSinqConfig(config));
  return config;
}

absl::Status CheckSinqConfig(const SinqConfig& config) {
  if (SinqPackingOf(config.spec.bits) == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("nbits: found ", config.spec.bits, ", expected 1, 2, 3, 4, 5, 6 or 8"));
  }
  const int64_t size = config.spec.group_size;
  if (size < 16 || size > kMaxGroup || size % 8 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group_size: found ", size, ", expected a multiple of 8 from 16 to ", kMaxGroup));
  }
  if (config.method != "sinq" && config.method != "asinq") {
    return absl::InvalidArgumentError("method: expected sinq or asinq");
  }
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteSinqConfig(const SinqConfig& config) {
  nlohmann::json json = {{"quant_method", "sinq"},
                         {"nbits", config.spec.bits},
                         {"group_size", config.spec.group_size},
                         {"tiling_mode", "1D"},
                         {"method", config.method},
                         {"modules_to_not_convert", nullptr},
                         {"_extra_kwargs", nlohmann::json::object()}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return Dump(json);
}

std::string WriteSinqMeta(const SinqConfig& config, DType dtype, bool has_rotary_embedding,
                          const std::vector<SinqModule>& modules) {
  const HqqPacking& packing = *SinqPackingOf(config.spec.bits);
  nlohmann::json json = nlohmann::json::object();
  if (has_rotary_embedding) json["model.rotary_emb"] = nlohmann::json::object();
  for (const SinqModule& module : modules) {
    const int64_t blocks = module.rows * (module.cols / config.spec.Tile(module.cols));
    json[module.name]["meta"] = {
        {"nbits", config.spec.bits},
        {"group_size", config.spec.group_size},
        {"shape", {module.rows, module.cols}},
        {"scale.shape", {blocks, 1}},
        {"awq_scale", nullptr},
        {"zero.shape", {blocks, 1}},
        {"axis", 1},
        {"packing", std::string(packing.name)},
        {"method", config.method == "asinq" ? "sinq_awq_l1_quantAux" : "sinq_quantAux"},
        {"compute_dtype", TorchName(dtype)},
        {"unpack_view_dtype", packing.word == DType::kI32 ? "torch.int32" : "torch.uint8"},
        {"view_as_float", false}};
  }
  return Dump(json);
}

}  // namespace quantd

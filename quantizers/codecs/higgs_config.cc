#include "quantizers/codecs/higgs_config.h"

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"

namespace quantd {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;

absl::StatusOr<HiggsTuning> ReadTuning(const nlohmann::json& json, const std::string& where,
                                       const HiggsConfig& config) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(json, where));
  for (const char* key : {"N", "K", "template_id", "dtype"}) {
    if (!fields.Has(key)) return fields.Wrong(key, "what flute's TuneMetaData says");
  }
  HiggsTuning tuning;
  ASSIGN_OR_RETURN(tuning.m, fields.Int("M", 1, 1, kMaxDimension));
  ASSIGN_OR_RETURN(tuning.n, fields.Int("N", 0, 1, kMaxDimension));
  ASSIGN_OR_RETURN(tuning.k, fields.Int("K", 0, 1, kMaxDimension));
  // These repeat what the config says.
  RETURN_IF_ERROR(fields.Int("num_bits", config.bits, config.bits, config.bits).status());
  RETURN_IF_ERROR(
      fields.Int("group_size", config.group_size, config.group_size, config.group_size).status());
  ASSIGN_OR_RETURN(tuning.num_sms, fields.Int("num_sms", 132, 1, 65536));
  ASSIGN_OR_RETURN(const std::string dtype, fields.String("dtype", ""));
  tuning.dtype = DTypeFromTorch(dtype).value_or(DType::kF32);
  if (tuning.dtype != DType::kF16 && tuning.dtype != DType::kBF16) {
    return fields.Wrong("dtype", "\"torch.float16\" or \"torch.bfloat16\"");
  }
  ASSIGN_OR_RETURN(tuning.device, fields.String("device", "cuda:0"));
  ASSIGN_OR_RETURN(tuning.template_id, fields.Int("template_id", 0, 0, 65536));
  const int tile = FluteTile(config.bits, tuning.template_id);
  if (tile < 0 || (config.bits == 3 && tile != 32)) {
    return fields.Wrong("template_id",
                        absl::StrCat("a template of flute 0.4.2 that packs ", config.bits,
                                     " bits, such as ", FluteDefaultTemplate(config.bits)));
  }
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return tuning;
}

}  // namespace

const HiggsTuning* HiggsConfig::Find(const std::string& module) const {
  const auto found = tune_metadata.find(module);
  return found == tune_metadata.end() ? nullptr : &found->second;
}

HiggsTuning HiggsConfig::DefaultTuning(int64_t rows, int64_t cols, DType dtype) const {
  HiggsTuning tuning;
  tuning.n = rows;
  tuning.k = cols;
  tuning.dtype = dtype;
  tuning.template_id = FluteDefaultTemplate(bits);
  return tuning;
}

FlutePacking HiggsConfig::PackingOf(const HiggsTuning& tuning) const {
  return {.bits = bits, .tile = FluteTile(bits, tuning.template_id)};
}

absl::StatusOr<HiggsConfig> ParseHiggsConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  HiggsConfig config;
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("bits", 4, 2, 4));
  config.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(const int64_t p, fields.Int("p", 2, 1, 2));
  config.p = static_cast<int>(p);
  ASSIGN_OR_RETURN(config.group_size, fields.Int("group_size", 256, 1, kMaxDimension));
  ASSIGN_OR_RETURN(config.hadamard_size, fields.Int("hadamard_size", 512, 1, kMaxDimension));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
  }
  RETURN_IF_ERROR(CheckHiggsConfig(config));
  if (!fields.Has("tune_metadata")) return config;
  const nlohmann::json& tunings = fields.Raw("tune_metadata");
  const std::string where = fields.Path("tune_metadata");
  RETURN_IF_ERROR(ConfigFields::Of(tunings, where).status());
  for (const auto& [module, tuning] : tunings.items()) {
    const std::string name = absl::Utf8SafeCEscape(absl::string_view(module).substr(0, 200));
    ASSIGN_OR_RETURN(config.tune_metadata[module],
                     ReadTuning(tuning, absl::StrCat(where, ".", name), config));
  }
  return config;
}

absl::Status CheckHiggsConfig(const HiggsConfig& config) {
  const int64_t group = config.group_size, size = config.hadamard_size;
  if (group != 64 && group != 128 && group != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat("group_size: found ", group, ", expected 64, 128 or 256"));
  }
  if ((size & (size - 1)) != 0 || size % group != 0 || size > (1 << 24)) {
    return absl::InvalidArgumentError(
        absl::StrCat("hadamard_size: found ", size,
                     ", expected a power of two that is a multiple of group_size ", group));
  }
  return CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                           "modules_to_not_convert");
}

std::string WriteHiggsConfig(const HiggsConfig& config) {
  nlohmann::json tunings = nlohmann::json::object();
  for (const auto& [module, tuning] : config.tune_metadata) {
    tunings[module] = {{"M", tuning.m},
                       {"N", tuning.n},
                       {"K", tuning.k},
                       {"num_bits", config.bits},
                       {"group_size", config.group_size},
                       {"num_sms", tuning.num_sms},
                       {"dtype", absl::StrCat("torch.", InfoOf(tuning.dtype).torch_name)},
                       {"device", tuning.device},
                       {"template_id", tuning.template_id}};
  }
  nlohmann::json json = {{"quant_method", "higgs"},
                         {"bits", config.bits},
                         {"p", config.p},
                         {"group_size", config.group_size},
                         {"hadamard_size", config.hadamard_size},
                         {"modules_to_not_convert", nullptr},
                         {"tune_metadata", tunings}};
  if (config.modules_to_not_convert)
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

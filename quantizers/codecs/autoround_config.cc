#include "quantizers/codecs/autoround_config.h"

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

constexpr int64_t kMaxGroup = int64_t{1} << 31;
constexpr size_t kMaxEntries = 65536;
constexpr size_t kMaxPatternBytes = 1024;

struct PackingName {
  absl::string_view name;
  AutoRoundPacking packing;
  bool stores_group_index;
};

// The first name of a packing is the one that is written.
constexpr PackingName kPackingNames[] = {
    {"auto_round:auto_gptq", AutoRoundPacking::kGptq, false},
    {"auto_round:auto_awq", AutoRoundPacking::kAwq, false},
    {"auto_round", AutoRoundPacking::kPlain, false},
    {"auto_round:gptqmodel", AutoRoundPacking::kPlain, true},
    {"auto_round:gptq", AutoRoundPacking::kGptq, false},
    {"auto_round:awq", AutoRoundPacking::kAwq, false},
    {"auto", AutoRoundPacking::kGptq, false},
};

absl::Status ReadPacking(ConfigFields& fields, AutoRoundConfig* config) {
  ASSIGN_OR_RETURN(const std::string name, fields.String("packing_format", "auto"));
  for (const PackingName& known : kPackingNames) {
    if (known.name != name) continue;
    config->packing = known.packing;
    config->stores_group_index = known.stores_group_index;
    return absl::OkStatus();
  }
  return fields.Wrong("packing_format",
                      "auto_round, auto_round:auto_gptq, auto_round:auto_awq or "
                      "auto_round:gptqmodel");
}

absl::Status Unimplemented(const ConfigFields& fields, absl::string_view key,
                           absl::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat(fields.Path(key), ": ", what, "; only integer weights are supported"));
}

// What would make the stored codes mean something else.
absl::Status RefuseUnsupported(ConfigFields& fields) {
  ASSIGN_OR_RETURN(const std::string type, fields.String("data_type", "int"));
  if (type != "int" && type != "int_sym" && type != "int_asym") {
    return Unimplemented(
        fields, "data_type",
        absl::StrCat("\"", absl::Utf8SafeCEscape(type.substr(0, 64)), "\" is not supported"));
  }
  for (const char* key : {"rotation_config", "spinquant_config", "hadamard_config"}) {
    if (!fields.Has(key) || fields.Raw(key).empty()) continue;
    return Unimplemented(fields, key, "rotated weights are not supported");
  }
  ASSIGN_OR_RETURN(const int64_t activation_bits, fields.Int("act_bits", 16, 1, 64));
  if (activation_bits <= 8) {
    return Unimplemented(fields, "act_bits", "quantized activations are not supported");
  }
  for (const char* key : {"super_bits", "super_group_size"}) {
    if (fields.Has(key)) return Unimplemented(fields, key, "nested scales are not supported");
  }
  return absl::OkStatus();
}

absl::Status ReadBlocks(ConfigFields& fields, AutoRoundConfig* config) {
  const char* key =
      fields.Has("block_name_to_quantize") ? "block_name_to_quantize" : "to_quant_block_names";
  if (!fields.Has(key)) return absl::OkStatus();
  const nlohmann::json& value = fields.Raw(key);
  if (value.is_string()) {
    for (absl::string_view name : absl::StrSplit(value.get<std::string>(), ',')) {
      config->blocks.emplace_back(absl::StripAsciiWhitespace(name));
    }
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(config->blocks, fields.StringList(key));
  return absl::OkStatus();
}

absl::StatusOr<AutoRoundOverride> ReadOverride(const std::string& name, const nlohmann::json& value,
                                               const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  AutoRoundOverride entry;
  entry.name = name;
  if (fields.Has("bits")) {
    ASSIGN_OR_RETURN(const int64_t bits, fields.Int("bits", 4, 1, 64));
    entry.bits = static_cast<int>(bits);
  }
  if (fields.Has("group_size")) {
    ASSIGN_OR_RETURN(entry.group_size, fields.Int("group_size", 128, -1, kMaxGroup));
    if (*entry.group_size == 0) return fields.Wrong("group_size", "-1 or a positive number");
  }
  if (fields.Has("sym")) {
    ASSIGN_OR_RETURN(entry.sym, fields.Bool("sym", true));
  }
  if (entry.bits.value_or(4) < 16) RETURN_IF_ERROR(RefuseUnsupported(fields));
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  auto pattern = std::make_shared<const RE2>(name, options);
  // Upstream passes over patterns that are none.
  if (name.size() <= kMaxPatternBytes && pattern->ok()) entry.pattern = std::move(pattern);
  return entry;
}

absl::Status ReadExtraConfig(ConfigFields& fields, AutoRoundConfig* config) {
  if (!fields.Has("extra_config")) return absl::OkStatus();
  const nlohmann::json& entries = fields.Raw("extra_config");
  RETURN_IF_ERROR(ConfigFields::Of(entries, fields.Path("extra_config")).status());
  if (entries.size() > kMaxEntries) {
    return fields.Wrong("extra_config", absl::StrCat("at most ", kMaxEntries, " entries"));
  }
  for (const auto& [name, value] : entries.items()) {
    const std::string shown = absl::Utf8SafeCEscape(absl::string_view(name).substr(0, 200));
    ASSIGN_OR_RETURN(
        AutoRoundOverride entry,
        ReadOverride(name, value, absl::StrCat(fields.Path("extra_config"), ".", shown)));
    config->extra_config.push_back(std::move(entry));
  }
  return absl::OkStatus();
}

}  // namespace

AutoRoundLayer AutoRoundOverride::Applied(AutoRoundLayer layer) const {
  layer.bits = bits.value_or(layer.bits);
  layer.group_size = group_size.value_or(layer.group_size);
  layer.sym = sym.value_or(layer.sym);
  return layer;
}

absl::StatusOr<AutoRoundLayer> AutoRoundConfig::LayerOf(absl::string_view module) const {
  for (const AutoRoundOverride& entry : extra_config) {
    if (entry.name == module) return entry.Applied(layer);
  }
  const AutoRoundOverride* found = nullptr;
  for (const AutoRoundOverride& entry : extra_config) {
    if (entry.pattern == nullptr) continue;
    if (!RE2::PartialMatch(re2::StringPiece(module.data(), module.size()), *entry.pattern)) {
      continue;
    }
    if (found != nullptr && entry.Applied(layer) != found->Applied(layer)) {
      return absl::InvalidArgumentError(
          absl::StrCat("quantization_config.extra_config: the patterns \"",
                       absl::Utf8SafeCEscape(found->name.substr(0, 200)), "\" and \"",
                       absl::Utf8SafeCEscape(entry.name.substr(0, 200)), "\" disagree about ",
                       module, "; name it itself"));
    }
    found = &entry;
  }
  return found == nullptr ? layer : found->Applied(layer);
}

absl::StatusOr<AutoRoundConfig> ParseAutoRoundConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  AutoRoundConfig config;
  RETURN_IF_ERROR(RefuseUnsupported(fields));
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("bits", 4, 2, 8));
  config.layer.bits = static_cast<int>(bits);
  ASSIGN_OR_RETURN(config.layer.group_size, fields.Int("group_size", 128, -1, kMaxGroup));
  if (config.layer.group_size == 0) return fields.Wrong("group_size", "-1 or a positive number");
  ASSIGN_OR_RETURN(config.layer.sym, fields.Bool("sym", true));
  RETURN_IF_ERROR(ReadPacking(fields, &config));
  RETURN_IF_ERROR(ReadBlocks(fields, &config));
  RETURN_IF_ERROR(ReadExtraConfig(fields, &config));
  return config;
}

std::string PackingFormatOf(const AutoRoundConfig& config) {
  for (const PackingName& known : kPackingNames) {
    if (known.packing == config.packing && known.stores_group_index == config.stores_group_index) {
      return std::string(known.name);
    }
  }
  return "auto_round";
}

}  // namespace quantd

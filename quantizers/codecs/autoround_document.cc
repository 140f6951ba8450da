#include "quantizers/codecs/autoround_document.h"

#include "nlohmann/json.hpp"

namespace quantd {
namespace {

using nlohmann::json;

constexpr char kVersion[] = "0.16.1";

std::string Dump(const json& document) {
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

std::string AutoRoundConfigText(const AutoRoundConfig& config, const AutoRoundExport& run) {
  json out = {{"bits", config.layer.bits},
              {"group_size", config.layer.group_size},
              {"sym", config.layer.sym},
              {"data_type", "int"},
              {"autoround_version", kVersion}};
  // Written where they are not the defaults.
  if (run.iters != 0 && run.iters != 200) out["iters"] = run.iters;
  if (run.iters == 0 || !run.enable_quanted_input) out["enable_quanted_input"] = false;
  switch (run.format) {
    case AutoRoundFormat::kAutoRound:
      out.update({{"quant_method", "auto-round"},
                  {"packing_format", PackingFormatOf(config)},
                  {"block_name_to_quantize", run.blocks}});
      if (const json extra = json::parse(run.extra_config, nullptr, false);
          extra.is_object() && !extra.empty()) {
        out["extra_config"] = extra;
      }
      break;
    case AutoRoundFormat::kAutoGptq:
      out.update({{"quant_method", "gptq"},
                  {"damp_percent", 0.01},
                  {"desc_act", false},
                  {"lm_head", false},
                  {"provider", "auto-round"},
                  {"true_sequential", false}});
      break;
    case AutoRoundFormat::kAutoAwq:
      out.update({{"quant_method", "awq"},
                  {"version", "gemm"},
                  {"zero_point", !config.layer.sym},
                  {"modules_to_not_convert", {"lm_head"}},
                  {"provider", "auto-round"},
                  {"to_quant_block_names", run.blocks}});
      break;
  }
  return Dump(out);
}

absl::StatusOr<AutoRoundConfig> AutoRoundConfigOf(const AutoRoundLayer& layer,
                                                  const std::string& layer_config) {
  json extra = json::object();
  if (!layer_config.empty()) {
    extra = json::parse(layer_config, nullptr, false);
    if (!extra.is_object()) {
      return absl::InvalidArgumentError(
          "autoround: layer_config: expected a JSON object "
          "{\"module or pattern\": {\"bits\": 8}}");
    }
  }
  return ParseAutoRoundConfig(Dump({{"bits", layer.bits},
                                    {"group_size", layer.group_size},
                                    {"sym", layer.sym},
                                    {"extra_config", extra}}));
}

absl::StatusOr<AutoRoundRun> ParseAutoRoundRun(const std::string& text) {
  const json document = json::parse(text, nullptr, false);
  AutoRoundRun run;
  if (!document.is_object()) return run;
  if (const auto extra = document.find("extra_config");
      extra != document.end() && extra->is_object()) {
    run.extra_config = Dump(*extra);
  }
  if (const auto quanted = document.find("enable_quanted_input");
      quanted != document.end() && quanted->is_boolean()) {
    run.enable_quanted_input = quanted->get<bool>();
  }
  if (const auto iters = document.find("iters"); iters != document.end()) {
    if (!iters->is_number_unsigned()) {
      return absl::InvalidArgumentError("autoround: iters: expected a number from 0");
    }
    run.iters = iters->get<int64_t>();
  }
  return run;
}

}  // namespace quantd

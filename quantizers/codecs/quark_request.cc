// A request in options, spelled as the document that Quark's export writes.
#include <nlohmann/json.hpp>

#include "quantizers/codecs/quark_config.h"

namespace quantd {

using nlohmann::json;
using Values = QuarkSpec::Values;

namespace {

json WeightSpec(const QuarkRequest& request) {
  const std::optional<QuarkSpec> spec = QuarkSpecNamed(request.dtype);
  const bool plain = spec && spec->values == Values::kPlain;
  const bool mx = spec && spec->values == Values::kMicroscaling;
  std::string scheme = request.qscheme;
  if (scheme.empty()) {
    scheme = spec && spec->values == Values::kFloat8 ? "per_tensor" : "per_group";
  }
  const char* observer = plain                     ? "PlaceholderObserver"
                         : mx                      ? "PerBlockMXObserver"
                         : scheme == "per_tensor"  ? "PerTensorMinMaxObserver"
                         : scheme == "per_channel" ? "PerChannelMinMaxObserver"
                                                   : "PerGroupMinMaxObserver";
  json weight = {{"dtype", request.dtype},       {"observer_cls", observer},
                 {"zero_point_type", "int32"},   {"is_scale_quant", false},
                 {"enable_buffer_reuse", false}, {"max_input_numel", 4194304}};
  for (const char* key :
       {"is_dynamic", "qscheme", "ch_axis", "group_size", "symmetric", "round_method", "scale_type",
        "scale_format", "scale_calculation_mode", "mx_element_dtype", "block_size"}) {
    weight[key] = nullptr;
  }
  if (!plain) {
    weight["is_dynamic"] = false;
    weight["qscheme"] = scheme;
    weight["round_method"] = "half_even";
    weight["scale_type"] = "float";
    if (!mx) weight["symmetric"] = request.symmetric;
  }
  if (!plain && scheme == "per_channel") weight["ch_axis"] = 0;
  if (!plain && scheme == "per_group") {
    weight["ch_axis"] = -1;
    weight["group_size"] = request.group_size;
  }
  if (mx) {
    weight["scale_format"] = "e8m0";
    weight["scale_calculation_mode"] =
        request.scale_calculation_mode.empty() ? "even" : request.scale_calculation_mode;
  }
  return weight;
}

// Null when inputs stay as they are.
json InputSpec(const QuarkRequest& request, const json& weight) {
  if (request.input_dtype.empty()) return nullptr;
  json inputs = weight;
  for (const char* key : {"ch_axis", "group_size", "scale_format", "scale_calculation_mode"}) {
    inputs[key] = nullptr;
  }
  inputs.update({{"dtype", request.input_dtype},
                 {"observer_cls", "PerTensorMinMaxObserver"},
                 {"is_dynamic", false},
                 {"qscheme", "per_tensor"},
                 {"symmetric", request.input_symmetric},
                 {"round_method", "half_even"},
                 {"scale_type", "float"}});
  return inputs;
}

}  // namespace

std::string QuarkRequestJson(const QuarkRequest& request) {
  const json weight = WeightSpec(request);
  const json document = {{"quant_method", "quark"},
                         {"quant_mode", "eager_mode"},
                         {"version", "0.13"},
                         {"algo_config", nullptr},
                         {"exclude", request.exclude},
                         {"export",
                          {{"kv_cache_group", json::array()},
                           {"min_kv_scale", 0.0},
                           {"pack_method", request.pack_method},
                           {"weight_format", "real_quantized"},
                           {"weight_merge_groups", nullptr}}},
                         {"global_quant_config",
                          {{"weight", weight},
                           {"input_tensors", InputSpec(request, weight)},
                           {"output_tensors", nullptr},
                           {"bias", nullptr},
                           {"target_device", nullptr}}},
                         {"layer_quant_config", json::object()},
                         {"layer_type_quant_config", json::object()},
                         {"kv_cache_quant_config", json::object()},
                         {"kv_cache_post_rope", false},
                         {"softmax_quant_spec", nullptr}};
  return document.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace quantd

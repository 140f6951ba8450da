// The table of torchao's config classes.
#include <nlohmann/json.hpp>

#include "quantizers/codecs/torchao_classes.h"

namespace quantd {
namespace {

using nlohmann::json;

struct ConfigClass {
  const char* name;
  const char* defaults;  // JSON of `_data`
};

// Written by torchao.core.config.config_to_dict of each class without arguments (0.18).
constexpr ConfigClass kClasses[] = {
    {"Int8WeightOnlyConfig",
     R"({"group_size": null, "granularity": {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}},
         "set_inductor_config": true})"},
    {"Int8DynamicActivationInt8WeightConfig",
     R"({"act_mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
         "weight_only_decode": false,
         "granularity": {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}},
         "set_inductor_config": true, "reduce_range": false})"},
    {"Int4WeightOnlyConfig",
     R"({"group_size": 128, "set_inductor_config": true,
         "int4_packing_format": {"_type": "Int4PackingFormat", "_data": "PLAIN"},
         "int4_choose_qparams_algorithm": {"_type": "Int4ChooseQParamsAlgorithm", "_data": "TINYGEMM"},
         "int4_tile_packed_ntile": 8})"},
    {"Float8WeightOnlyConfig",
     R"({"weight_dtype": {"_type": "torch.dtype", "_data": "float8_e4m3fn"},
         "set_inductor_config": true,
         "granularity": {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}})"},
    {"Float8DynamicActivationFloat8WeightConfig",
     R"({"activation_dtype": {"_type": "torch.dtype", "_data": "float8_e4m3fn"},
         "weight_dtype": {"_type": "torch.dtype", "_data": "float8_e4m3fn"},
         "granularity": [{"_type": "PerTensor", "_version": 1, "_data": {}},
                         {"_type": "PerTensor", "_version": 1, "_data": {}}],
         "packing_format": {"_type": "Float8PackingFormat", "_data": "PLAIN"},
         "mm_config": {"_type": "Float8MMConfig", "_version": 1,
                       "_data": {"emulate": false, "use_fast_accum": true, "pad_inner_dim": false}},
         "activation_value_lb": null, "activation_value_ub": null,
         "kernel_preference": {"_type": "KernelPreference", "_data": "AUTO"},
         "set_inductor_config": true, "alg_id": 0})"},
    {"IntxWeightOnlyConfig",
     R"({"weight_dtype": {"_type": "torch.dtype", "_data": "int8"},
         "granularity": {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}},
         "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"}, "scale_dtype": null,
         "intx_packing_format": {"_type": "IntxPackingFormat", "_data": "UNPACKED_TO_INT8"},
         "intx_choose_qparams_algorithm":
           {"_type": "IntxChooseQParamsAlgorithm", "_data": "AFFINE"}})"},
    {"Int8DynamicActivationIntxWeightConfig",
     R"({"weight_dtype": {"_type": "torch.dtype", "_data": "int8"},
         "weight_granularity": {"_type": "PerGroup", "_version": 1, "_data": {"group_size": 32}},
         "weight_mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
         "weight_scale_dtype": null,
         "act_mapping_type": {"_type": "MappingType", "_data": "ASYMMETRIC"},
         "intx_packing_format": {"_type": "IntxPackingFormat", "_data": "UNPACKED_TO_INT8"},
         "intx_choose_qparams_algorithm":
           {"_type": "IntxChooseQParamsAlgorithm", "_data": "AFFINE"}})"},
};

}  // namespace

std::vector<std::string> TorchAoConfigClasses() {
  std::vector<std::string> names;
  for (const ConfigClass& row : kClasses) names.push_back(row.name);
  return names;
}

json TorchAoDefaults(absl::string_view config_class) {
  for (const ConfigClass& row : kClasses) {
    if (config_class == row.name) return json::parse(row.defaults, nullptr, false);
  }
  return json::object();
}

}  // namespace quantd

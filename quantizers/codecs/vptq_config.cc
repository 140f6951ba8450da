#include "quantizers/codecs/vptq_config.h"

#include <bit>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "formats/huggingface/strict_json.h"
#include "nlohmann/json.hpp"
#include "quantizers/codecs/config_fields.h"
#include "quantizers/codecs/quantization_config.h"

namespace quantd {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;
constexpr int kMaxVector = 64;  // bounds what a small file can become
constexpr int kMaxCentroids = 65536;

// The two numbers of `key`, for the outlier columns and for the others.
absl::StatusOr<std::pair<int, int>> ReadPair(ConfigFields& fields, absl::string_view key, int max) {
  const std::string expected =
      absl::StrCat("two integers from -1 to ", max, ", of the outlier columns and of the others");
  if (!fields.Has(key)) return fields.Wrong(key, expected);
  const nlohmann::json& list = fields.Raw(key);
  if (!list.is_array() || list.size() != 2) return fields.Wrong(key, expected);
  int values[2];
  for (int i = 0; i < 2; ++i) {
    if (!list[i].is_number_integer() || list[i] < -1 || list[i] > max) {
      return fields.Wrong(key, expected);
    }
    values[i] = list[i].get<int>();
  }
  return std::pair(values[0], values[1]);
}

bool IsPowerOfTwo(int value) { return value >= 2 && std::has_single_bit(unsigned(value)); }

absl::Status ReadCodebooks(ConfigFields& fields, VptqLayer* layer) {
  ASSIGN_OR_RETURN(const auto lengths, ReadPair(fields, "vector_lens", kMaxVector));
  ASSIGN_OR_RETURN(const auto centroids, ReadPair(fields, "num_centroids", kMaxCentroids));
  ASSIGN_OR_RETURN(const auto residuals, ReadPair(fields, "num_res_centroids", kMaxCentroids));
  std::tie(layer->outlier_vector_len, layer->vector_len) = lengths;
  std::tie(layer->outlier_num_centroids, layer->num_centroids) = centroids;
  layer->num_res_centroids = residuals.second > 0 ? residuals.second : -1;
  if (layer->vector_len < 1) return fields.Wrong("vector_lens", "a positive second number");
  if (!IsPowerOfTwo(layer->num_centroids)) {
    return fields.Wrong("num_centroids", "a power of two as the second number");
  }
  // vptq reads residual codes with the mask of the main ones.
  if (layer->has_residual() && (!IsPowerOfTwo(layer->num_res_centroids) ||
                                layer->num_res_centroids > layer->num_centroids)) {
    return fields.Wrong("num_res_centroids",
                        "-1 or a power of two up to num_centroids as the second number");
  }
  if (residuals.first > 0) {
    return fields.Wrong("num_res_centroids", "-1 as the first number: outliers have no residual");
  }
  return absl::OkStatus();
}

absl::Status ReadSizes(ConfigFields& fields, VptqLayer* layer) {
  for (const char* key : {"in_features", "out_features", "group_size"}) {
    if (!fields.Has(key)) return fields.Wrong(key, "an integer");
  }
  ASSIGN_OR_RETURN(layer->in_features, fields.Int("in_features", 0, 1, kMaxDimension));
  ASSIGN_OR_RETURN(layer->out_features, fields.Int("out_features", 0, 1, kMaxDimension));
  ASSIGN_OR_RETURN(layer->group_size, fields.Int("group_size", 0, 1, kMaxDimension));
  ASSIGN_OR_RETURN(layer->group_num, fields.Int("group_num", 1, 1, 65536));
  ASSIGN_OR_RETURN(layer->outlier_size, fields.Int("outlier_size", 0, 0, kMaxDimension));
  const int64_t left = layer->in_features - layer->outlier_size;
  if (left != layer->group_num * layer->group_size) {
    return fields.Wrong("group_size", absl::StrCat(layer->group_num, " equal groups of the ", left,
                                                   " columns that are no outliers"));
  }
  if (layer->outlier_size == 0) return absl::OkStatus();
  if (layer->outlier_vector_len < 2) {
    return fields.Wrong("vector_lens", "a first number above 1 beside outlier_size");
  }
  if (IsPowerOfTwo(layer->outlier_num_centroids)) return absl::OkStatus();
  return fields.Wrong("num_centroids", "a power of two as the first number beside outlier_size");
}

absl::StatusOr<VptqLayer> ReadLayer(const nlohmann::json& json, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(json, where));
  VptqLayer layer;
  RETURN_IF_ERROR(ReadCodebooks(fields, &layer));
  RETURN_IF_ERROR(ReadSizes(fields, &layer));
  ASSIGN_OR_RETURN(const bool as_float, fields.Bool("indices_as_float", false));
  if (as_float) return fields.Wrong("indices_as_float", "false");
  ASSIGN_OR_RETURN(const bool is_packed, fields.Bool("is_indice_packed", true));
  if (!is_packed) return fields.Wrong("is_indice_packed", "true");
  ASSIGN_OR_RETURN(layer.enable_norm, fields.Bool("enable_norm", false));
  ASSIGN_OR_RETURN(layer.enable_perm, fields.Bool("enable_perm", false));
  ASSIGN_OR_RETURN(layer.bias, fields.Bool("bias", false));
  if (layer.enable_perm && layer.in_features > 65536) {
    return fields.Wrong("in_features", "at most 65536 beside enable_perm");
  }
  RETURN_IF_ERROR(fields.RefuseUnknown());
  return layer;
}

absl::StatusOr<std::map<std::string, VptqLayer>> ReadLayers(ConfigFields& fields,
                                                            absl::string_view key) {
  std::map<std::string, VptqLayer> layers;
  if (!fields.Has(key)) return layers;
  const nlohmann::json& entries = fields.Raw(key);
  const std::string where = fields.Path(key);
  RETURN_IF_ERROR(ConfigFields::Of(entries, where).status());
  for (const auto& [module, entry] : entries.items()) {
    const std::string name = absl::Utf8SafeCEscape(absl::string_view(module).substr(0, 200));
    ASSIGN_OR_RETURN(layers[module], ReadLayer(entry, absl::StrCat(where, ".", name)));
  }
  return layers;
}

nlohmann::json LayersJson(const std::map<std::string, VptqLayer>& layers) {
  nlohmann::json json = nlohmann::json::object();
  for (const auto& [module, layer] : layers) {
    json[module] = {{"vector_lens", {layer.outlier_vector_len, layer.vector_len}},
                    {"num_centroids", {layer.outlier_num_centroids, layer.num_centroids}},
                    {"num_res_centroids", {-1, layer.num_res_centroids}},
                    {"group_num", layer.group_num},
                    {"group_size", layer.group_size},
                    {"outlier_size", layer.outlier_size},
                    {"indices_as_float", false},
                    {"enable_norm", layer.enable_norm},
                    {"enable_perm", layer.enable_perm},
                    {"is_indice_packed", true},
                    {"in_features", layer.in_features},
                    {"out_features", layer.out_features},
                    {"bias", layer.bias}};
  }
  return json;
}

int BitsOf(int centroids) {
  return centroids > 0 ? std::bit_width(static_cast<unsigned>(centroids)) - 1 : 0;
}

}  // namespace

int VptqLayer::centroid_bits() const { return BitsOf(num_centroids); }
int VptqLayer::residual_bits() const { return BitsOf(num_res_centroids); }
int VptqLayer::outlier_bits() const { return BitsOf(outlier_num_centroids); }

const VptqLayer* VptqConfig::Find(absl::string_view module) const {
  const auto own = config_for_layers.find(std::string(module));
  if (own != config_for_layers.end()) return &own->second;
  const size_t dot = module.rfind('.');
  const auto shared = shared_layer_config.find(
      std::string(dot == absl::string_view::npos ? module : module.substr(dot + 1)));
  return shared == shared_layer_config.end() ? nullptr : &shared->second;
}

absl::StatusOr<VptqConfig> ParseVptqConfig(const std::string& json) {
  ASSIGN_OR_RETURN(const nlohmann::json document,
                   ParseStrictJsonObject(json, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  VptqConfig config;
  ASSIGN_OR_RETURN(const bool proxy, fields.Bool("enable_proxy_error", false));
  if (proxy) return fields.Wrong("enable_proxy_error", "false");
  ASSIGN_OR_RETURN(config.config_for_layers, ReadLayers(fields, "config_for_layers"));
  ASSIGN_OR_RETURN(config.shared_layer_config, ReadLayers(fields, "shared_layer_config"));
  if (fields.Has("modules_to_not_convert")) {
    ASSIGN_OR_RETURN(config.modules_to_not_convert, fields.StringList("modules_to_not_convert"));
    RETURN_IF_ERROR(CheckSkipPatterns(*config.modules_to_not_convert, "modules_to_not_convert"));
  }
  return config;
}

std::string WriteVptqConfig(const VptqConfig& config) {
  nlohmann::json json = {{"quant_method", "vptq"},
                         {"enable_proxy_error", false},
                         {"config_for_layers", LayersJson(config.config_for_layers)},
                         {"shared_layer_config", LayersJson(config.shared_layer_config)},
                         {"modules_to_not_convert", nullptr}};
  if (config.modules_to_not_convert) {
    json["modules_to_not_convert"] = *config.modules_to_not_convert;
  }
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace quantd

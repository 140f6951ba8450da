#include "quantizers/codecs/torchao_classes.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

using nlohmann::json;

constexpr int64_t kMaxGroup = int64_t{1} << 24;

constexpr int kVersion = 2;  // of all of them; version 1 is gone from upstream

// The header's spelling of an object: as in the config, without versions.
json WithoutVersions(const json& value) {
  if (!value.is_object()) return value;
  json out = json::object();
  for (const auto& [key, item] : value.items()) {
    if (key != "_version") out[key] = WithoutVersions(item);
  }
  return out;
}

// The fields of one config object, with readers for the ways in which torchao spells values.
class ClassFields {
 public:
  ClassFields(const json& data, const std::string& where)
      : data_(data), where_(where), fields_(data, where) {}

  const json& Raw(const char* key) const { return data_[key]; }
  absl::Status Wrong(const char* key, absl::string_view expected) const {
    return fields_.Wrong(key, expected);
  }
  std::string Path(const char* key) const { return absl::StrCat(where_, ".", key); }

  absl::StatusOr<bool> Bool(const char* key) {
    if (!data_[key].is_boolean()) return Wrong(key, "true or false");
    return data_[key].get<bool>();
  }
  absl::StatusOr<int64_t> Int(const char* key, int64_t min, int64_t max) {
    return fields_.Int(key, min - 1, min, max);
  }

  // {"_type": type, "_data": value}.
  absl::StatusOr<std::string> Tagged(const char* key, absl::string_view type) const {
    const json& value = data_[key];
    const std::string expected = absl::StrCat("{\"_type\": \"", type, "\", \"_data\": a name}");
    if (!value.is_object() || !value.contains("_type") || !value.contains("_data") ||
        value["_type"] != std::string(type) || !value["_data"].is_string()) {
      return Wrong(key, expected);
    }
    return value["_data"].get<std::string>();
  }

  // One of `supported`; `known` ones are upstream's, but not supported.
  absl::StatusOr<std::string> Enum(const char* key, absl::string_view type,
                                   std::initializer_list<absl::string_view> supported,
                                   std::initializer_list<absl::string_view> known = {}) const {
    ASSIGN_OR_RETURN(const std::string name, Tagged(key, type));
    if (std::find(supported.begin(), supported.end(), name) != supported.end()) return name;
    const std::string message =
        absl::StrCat(Path(key), ": found ", absl::Utf8SafeCEscape(name.substr(0, 200)),
                     ", expected ", absl::StrJoin(supported, " or "));
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return absl::InvalidArgumentError(message);
    }
    return absl::UnimplementedError(absl::StrCat(message, " (its layout belongs to one device)"));
  }

  absl::StatusOr<int> IntDTypeBits(const char* key) const {
    ASSIGN_OR_RETURN(const std::string name, Tagged(key, "torch.dtype"));
    int bits = 0;
    if (name.size() == 4 && name.substr(0, 3) == "int" && absl::SimpleAtoi(name.substr(3), &bits) &&
        bits >= 1 && bits <= 8) {
      return bits;
    }
    return absl::InvalidArgumentError(absl::StrCat(Path(key), ": found ",
                                                   absl::Utf8SafeCEscape(name.substr(0, 200)),
                                                   ", expected int1 to int8"));
  }

  absl::StatusOr<DType> Float8DType(const char* key) const {
    ASSIGN_OR_RETURN(const std::string name,
                     Enum(key, "torch.dtype", {"float8_e4m3fn", "float8_e5m2"},
                          {"float8_e4m3fnuz", "float8_e5m2fnuz"}));
    return name == "float8_e4m3fn" ? DType::kF8E4M3 : DType::kF8E5M2;
  }

  absl::StatusOr<std::optional<DType>> OptionalFloatDType(const char* key) const {
    if (data_[key].is_null()) return std::optional<DType>();
    ASSIGN_OR_RETURN(const std::string name,
                     Enum(key, "torch.dtype", {"float32", "float16", "bfloat16"}));
    return DTypeFromTorch(name);
  }

  absl::StatusOr<AoMapping> Mapping(const char* key) const {
    ASSIGN_OR_RETURN(
        const std::string name,
        Enum(key, "MappingType", {"SYMMETRIC", "ASYMMETRIC", "SYMMETRIC_NO_CLIPPING_ERR"}));
    return name == "SYMMETRIC"    ? AoMapping::kSymmetric
           : name == "ASYMMETRIC" ? AoMapping::kAsymmetric
                                  : AoMapping::kSymmetricNoClipping;
  }

  // PerTensor, PerRow, PerGroup or PerAxis, if among `allowed`.
  absl::StatusOr<BlockShape> Granularity(const json& value, const char* key,
                                         std::initializer_list<absl::string_view> allowed) const {
    const absl::Status wrong = absl::InvalidArgumentError(
        absl::StrCat(Path(key), ": found ", value.dump().substr(0, 200), ", expected ",
                     absl::StrJoin(allowed, " or "), ", with its fields in _data"));
    if (!value.is_object() || !value.contains("_type") || !value["_type"].is_string()) return wrong;
    const std::string type = value["_type"].get<std::string>();
    if (std::find(allowed.begin(), allowed.end(), type) == allowed.end()) return wrong;
    const json data = value.value("_data", json::object());
    if (!data.is_object()) return wrong;
    if (type == "PerTensor") return BlockShape{.rows = 0, .cols = 0};
    if (type == "PerGroup") {
      ASSIGN_OR_RETURN(const int64_t group,
                       ConfigFields(data, Path(key)).Int("group_size", 0, 1, kMaxGroup));
      if (group == 0) return wrong;
      return BlockShape{.rows = 1, .cols = group};
    }
    const bool row = type == "PerRow";
    ASSIGN_OR_RETURN(const int64_t dim,
                     ConfigFields(data, Path(key)).Int(row ? "dim" : "axis", row ? -1 : 0, -2, 1));
    // `dim` is what a scale spans, `axis` what it does not.
    const bool along_columns = row ? dim == -1 || dim == 1 : dim == 0;
    if (!row && !along_columns) return wrong;
    return along_columns ? BlockShape{.rows = 1, .cols = 0} : BlockShape{.rows = 0, .cols = 1};
  }

 private:
  const json& data_;
  std::string where_;
  ConfigFields fields_;
};

// One granularity for both, or [activations, weights], or null for the class's default.
absl::StatusOr<BlockShape> PairedGranularity(const ClassFields& fields, const json& fallback,
                                             json* activations) {
  const json& value = fields.Raw("granularity");
  json weights = value;
  *activations = value;
  if (value.is_null()) *activations = weights = fallback;
  if (value.is_array()) {
    if (value.size() != 2) return fields.Wrong("granularity", "one or two granularities");
    *activations = value[0];
    weights = value[1];
  }
  ASSIGN_OR_RETURN(const BlockShape inputs,
                   fields.Granularity(*activations, "granularity", {"PerTensor", "PerRow"}));
  if (inputs.rows == 0 && inputs.cols == 1) {
    return fields.Wrong("granularity", "PerRow with dim -1 for activations");
  }
  return fields.Granularity(weights, "granularity", {"PerTensor", "PerRow"});
}

absl::Status ReadInt8(ClassFields& fields, bool dynamic, AoScheme* scheme) {
  scheme->tensor = AoTensor::kInt8;
  RETURN_IF_ERROR(fields.Bool("set_inductor_config").status());
  if (!dynamic) {
    if (!fields.Raw("group_size").is_null()) {
      return fields.Wrong("group_size", "null; spell it as granularity PerGroup");
    }
    ASSIGN_OR_RETURN(scheme->block, fields.Granularity(fields.Raw("granularity"), "granularity",
                                                       {"PerTensor", "PerRow", "PerGroup"}));
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(fields.Bool("weight_only_decode").status());
  ASSIGN_OR_RETURN(scheme->reduce_range, fields.Bool("reduce_range"));
  RETURN_IF_ERROR(
      fields.Enum("act_mapping_type", "MappingType", {"SYMMETRIC", "ASYMMETRIC"}).status());
  const json per_row = {{"_type", "PerRow"}, {"_version", 1}, {"_data", {{"dim", -1}}}};
  json activations;
  ASSIGN_OR_RETURN(scheme->block, PairedGranularity(fields, per_row, &activations));
  scheme->attributes["act_quant_kwargs"] = json{
      {"_type", "QuantizeTensorToInt8Kwargs"},
      {"_data",
       {{"granularity", WithoutVersions(activations)},
        {"mapping_type", WithoutVersions(fields.Raw("act_mapping_type"))},
        {"reduce_range",
         scheme->reduce_range}}}}.dump();
  return absl::OkStatus();
}

absl::Status ReadInt4(ClassFields& fields, AoScheme* scheme) {
  scheme->tensor = AoTensor::kInt4;
  scheme->bits = 4;
  RETURN_IF_ERROR(fields.Bool("set_inductor_config").status());
  ASSIGN_OR_RETURN(const int64_t group, fields.Int("group_size", 2, kMaxGroup));
  if (group < 2) return fields.Wrong("group_size", "an even integer of at least 2");
  if (group % 2 != 0) return fields.Wrong("group_size", "an even integer of at least 2");
  scheme->block = {.rows = 1, .cols = group};
  RETURN_IF_ERROR(fields
                      .Enum("int4_packing_format", "Int4PackingFormat", {"PLAIN"},
                            {"TILE_PACKED_TO_4D", "PLAIN_INT32", "PRESHUFFLED"})
                      .status());
  RETURN_IF_ERROR(fields
                      .Enum("int4_choose_qparams_algorithm", "Int4ChooseQParamsAlgorithm",
                            {"TINYGEMM"}, {"HQQ"})
                      .status());
  ASSIGN_OR_RETURN(const int64_t tile, fields.Int("int4_tile_packed_ntile", 8, 16));
  if (tile != 8 && tile != 16) return fields.Wrong("int4_tile_packed_ntile", "8 or 16");
  return absl::OkStatus();
}

absl::Status ReadIntx(ClassFields& fields, bool dynamic, AoScheme* scheme) {
  scheme->tensor = AoTensor::kIntx;
  const char* granularity = dynamic ? "weight_granularity" : "granularity";
  const char* mapping = dynamic ? "weight_mapping_type" : "mapping_type";
  ASSIGN_OR_RETURN(scheme->bits, fields.IntDTypeBits("weight_dtype"));
  ASSIGN_OR_RETURN(scheme->block, fields.Granularity(fields.Raw(granularity), granularity,
                                                     {"PerGroup", "PerAxis"}));
  ASSIGN_OR_RETURN(scheme->mapping, fields.Mapping(mapping));
  if (scheme->bits == 1 && scheme->mapping == AoMapping::kSymmetricNoClipping) {
    return fields.Wrong(mapping, "another mapping: the largest code of int1 is 0");
  }
  ASSIGN_OR_RETURN(scheme->scale_dtype,
                   fields.OptionalFloatDType(dynamic ? "weight_scale_dtype" : "scale_dtype"));
  RETURN_IF_ERROR(fields
                      .Enum("intx_packing_format", "IntxPackingFormat", {"UNPACKED_TO_INT8"},
                            {"OPAQUE_ATEN_KLEIDIAI", "OPAQUE_TORCHAO_AUTO",
                             "OPAQUE_TORCHAO_KLEIDIAI", "OPAQUE_TORCHAO_LOWBIT"})
                      .status());
  ASSIGN_OR_RETURN(const std::string algorithm,
                   fields.Enum("intx_choose_qparams_algorithm", "IntxChooseQParamsAlgorithm",
                               {"AFFINE", "HQQ_SCALE_ONLY"}));
  scheme->hqq_scales = algorithm == "HQQ_SCALE_ONLY";
  scheme->attributes["activation_quantization"] = "null";
  if (!dynamic) return absl::OkStatus();
  RETURN_IF_ERROR(fields.Enum("act_mapping_type", "MappingType", {"ASYMMETRIC"}).status());
  scheme->attributes["activation_quantization"] = "\"int8_asym_per_token\"";
  return absl::OkStatus();
}

absl::Status ReadFloat8Activations(ClassFields& fields, AoScheme* scheme) {
  RETURN_IF_ERROR(fields.Float8DType("activation_dtype").status());
  RETURN_IF_ERROR(fields
                      .Enum("packing_format", "Float8PackingFormat", {"PLAIN"},
                            {"SPARSE_1D_DATA_1D_METADATA", "SPARSE_2D_DATA_2D_METADATA"})
                      .status());
  RETURN_IF_ERROR(fields
                      .Enum("kernel_preference", "KernelPreference",
                            {"AUTO", "TORCH", "MSLK", "EMULATED", "TRITON"})
                      .status());
  for (const char* key : {"activation_value_lb", "activation_value_ub"}) {
    const json& value = fields.Raw(key);
    if (!value.is_null() && !value.is_number()) return fields.Wrong(key, "null or a number");
  }
  const json per_tensor = {{"_type", "PerTensor"}, {"_version", 1}, {"_data", json::object()}};
  json activations;
  ASSIGN_OR_RETURN(scheme->block, PairedGranularity(fields, per_tensor, &activations));
  const bool per_row = scheme->block.rows == 1;
  if (per_row != (activations["_type"] == "PerRow")) {
    return fields.Wrong("granularity", "the same for activations and weights");
  }
  scheme->needs_multiples_of_16 = true;
  scheme->needs_bfloat16 = per_row;
  scheme->attributes["mm_config"] = WithoutVersions(fields.Raw("mm_config")).dump();
  scheme->attributes["act_quant_kwargs"] =
      json{{"_type", "QuantizeTensorToFloat8Kwargs"},
           {"_data",
            {{"float8_dtype", WithoutVersions(fields.Raw("activation_dtype"))},
             {"granularity", WithoutVersions(activations)},
             {"mm_config", nullptr},
             {"hp_value_lb", fields.Raw("activation_value_lb")},
             {"hp_value_ub", fields.Raw("activation_value_ub")},
             {"kernel_preference", WithoutVersions(fields.Raw("kernel_preference"))}}}}
          .dump();
  scheme->attributes["kernel_preference"] = WithoutVersions(fields.Raw("kernel_preference")).dump();
  return absl::OkStatus();
}

absl::Status ReadFloat8(ClassFields& fields, bool dynamic, AoScheme* scheme) {
  scheme->tensor = AoTensor::kFloat8;
  RETURN_IF_ERROR(fields.Bool("set_inductor_config").status());
  ASSIGN_OR_RETURN(scheme->float_dtype, fields.Float8DType("weight_dtype"));
  if (dynamic) return ReadFloat8Activations(fields, scheme);
  if (fields.Raw("granularity").is_null()) {
    scheme->block = {.rows = 1, .cols = 0};
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(scheme->block, fields.Granularity(fields.Raw("granularity"), "granularity",
                                                     {"PerTensor", "PerRow", "PerGroup"}));
  return absl::OkStatus();
}

absl::Status ReadClass(ClassFields& fields, AoScheme* scheme) {
  const std::string& name = scheme->config_class;
  if (name == "Int8WeightOnlyConfig") return ReadInt8(fields, false, scheme);
  if (name == "Int8DynamicActivationInt8WeightConfig") return ReadInt8(fields, true, scheme);
  if (name == "Int4WeightOnlyConfig") return ReadInt4(fields, scheme);
  if (name == "IntxWeightOnlyConfig") return ReadIntx(fields, false, scheme);
  if (name == "Int8DynamicActivationIntxWeightConfig") return ReadIntx(fields, true, scheme);
  return ReadFloat8(fields, name == "Float8DynamicActivationFloat8WeightConfig", scheme);
}

}  // namespace

absl::StatusOr<AoParsedClass> ParseTorchAoClass(const json& object, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(object, where));
  ASSIGN_OR_RETURN(const std::string name, fields.String("_type", ""));
  json data = TorchAoDefaults(name);
  if (name.empty()) return fields.Wrong("_type", "the name of a torchao config class");
  if (data.empty()) {
    return absl::UnimplementedError(
        absl::StrCat(where, "._type: found ", absl::Utf8SafeCEscape(name.substr(0, 200)),
                     ", supported are FqnToConfig, ", absl::StrJoin(TorchAoConfigClasses(), ", ")));
  }
  ASSIGN_OR_RETURN(const int64_t version, fields.Int("_version", 1, 0, 1 << 20));
  if (version != kVersion) {
    return fields.Wrong("_version", absl::StrCat(kVersion, "; upstream removed version 1"));
  }
  if (!fields.Has("_data") || !fields.Raw("_data").is_object()) {
    return fields.Wrong("_data", "an object of the class's fields");
  }
  const std::string data_path = absl::StrCat(where, "._data");
  for (const auto& [key, value] : fields.Raw("_data").items()) {
    if (!data.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat(data_path, ".",
                                                     absl::Utf8SafeCEscape(key.substr(0, 200)),
                                                     ": ", name, " has no such field"));
    }
    data[key] = value;
  }
  AoParsedClass parsed;
  parsed.scheme.config_class = name;
  ClassFields class_fields(data, data_path);
  RETURN_IF_ERROR(ReadClass(class_fields, &parsed.scheme));
  parsed.json = json{{"_type", name}, {"_version", kVersion}, {"_data", data}}.dump();
  return parsed;
}

}  // namespace quantd

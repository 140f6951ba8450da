#include "quantizers/codecs/quark_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/huggingface/strict_json.h"
#include "quantizers/codecs/config_fields.h"

namespace quantd {
namespace {

using nlohmann::json;
using Values = QuarkSpec::Values;

constexpr int64_t kMaxGroup = int64_t{1} << 24;
constexpr size_t kMaxRules = 4096;
constexpr size_t kMaxPatternBytes = 1024;

struct NamedSpec {
  const char* dtype;
  Values values;
  int bits;
  bool is_signed;
  DType stored;
};

constexpr NamedSpec kSpecs[] = {
    {"int2", Values::kInteger, 2, true, DType::kI32},
    {"uint2", Values::kInteger, 2, false, DType::kU8},
    {"int3", Values::kInteger, 3, true, DType::kU8},
    {"int4", Values::kInteger, 4, true, DType::kI32},
    {"uint4", Values::kInteger, 4, false, DType::kI32},
    {"int8", Values::kInteger, 8, true, DType::kI8},
    {"uint8", Values::kInteger, 8, false, DType::kU8},
    {"fp8_e4m3", Values::kFloat8, 8, true, DType::kF8E4M3},
    {"fp8_e5m2", Values::kFloat8, 8, true, DType::kF8E5M2},
    {"fp4", Values::kMicroscaling, 4, true, DType::kU8},
    {"fp6_e2m3", Values::kMicroscaling, 6, true, DType::kU8},
    {"fp6_e3m2", Values::kMicroscaling, 6, true, DType::kU8},
    {"bfloat16", Values::kPlain, 16, true, DType::kBF16},
    {"float16", Values::kPlain, 16, true, DType::kF16},
};

// Upstream has them, but exports no packed weights of them.
constexpr const char* kOtherDTypes[] = {"mx",    "mx6",    "mx9",   "bfp16",
                                        "int16", "uint16", "int32", "fp8_e5m3"};

constexpr char kTensorObserver[] = "PerTensorMinMaxObserver";

// fnmatch: * and ? match anything, [...] a set; everything else stands for itself.
std::string RegexOf(const std::string& glob) {
  std::string regex;
  for (size_t i = 0; i < glob.size(); ++i) {
    const size_t close = glob[i] == '[' ? glob.find(']', i + 2) : std::string::npos;
    if (glob[i] == '*') {
      regex += ".*";
    } else if (glob[i] == '?') {
      regex += '.';
    } else if (close != std::string::npos) {
      std::string set = glob.substr(i + 1, close - i - 1);
      if (set[0] == '!') set[0] = '^';
      absl::StrAppend(&regex, "[", set, "]");
      i = close;
    } else {
      regex += RE2::QuoteMeta(glob.substr(i, 1));
    }
  }
  return regex;
}

absl::StatusOr<std::shared_ptr<const RE2>> PatternOf(const std::string& glob,
                                                     const std::string& where) {
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(1 << 20);
  auto pattern = std::make_shared<const RE2>(
      glob.size() <= kMaxPatternBytes ? RegexOf(glob) : std::string("("), options);
  if (!glob.empty() && pattern->ok()) return pattern;
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": found \"", absl::Utf8SafeCEscape(glob.substr(0, 200)),
                   "\", expected a module name or a pattern of * and ? of at most ",
                   kMaxPatternBytes, " bytes"));
}

absl::Status CheckWord(ConfigFields& fields, const char* key, absl::string_view fallback,
                       std::initializer_list<absl::string_view> words) {
  ASSIGN_OR_RETURN(const std::string found, fields.String(key, fallback));
  if (std::find(words.begin(), words.end(), found) != words.end()) return absl::OkStatus();
  return fields.Wrong(key, absl::StrJoin(words, " or "));
}

absl::Status ReadScheme(ConfigFields& fields, QuarkSpec* spec) {
  RETURN_IF_ERROR(CheckWord(fields, "qscheme", "", {"per_tensor", "per_channel", "per_group"}));
  ASSIGN_OR_RETURN(const std::string scheme, fields.String("qscheme", ""));
  spec->scheme = scheme == "per_tensor"    ? QuarkScheme::kTensor
                 : scheme == "per_channel" ? QuarkScheme::kChannel
                                           : QuarkScheme::kGroup;
  ASSIGN_OR_RETURN(const int64_t axis, fields.Int("ch_axis", 99, -2, 99));
  if (spec->scheme == QuarkScheme::kChannel && axis != 0 && axis != -2) {
    return fields.Wrong("ch_axis", "0, the rows");
  }
  if (spec->scheme != QuarkScheme::kGroup) return absl::OkStatus();
  if (axis != -1 && axis != 1) return fields.Wrong("ch_axis", "-1 or 1, the columns");
  ASSIGN_OR_RETURN(spec->group_size, fields.Int("group_size", 0, 1, kMaxGroup));
  if (spec->group_size == 0) {
    return fields.Wrong("group_size", "the number of columns that share a scale");
  }
  return absl::OkStatus();
}

absl::Status ReadScaleFormat(ConfigFields& fields, QuarkSpec* spec) {
  if (spec->values == Values::kMicroscaling) {
    RETURN_IF_ERROR(CheckWord(fields, "scale_format", "", {"e8m0"}));
    if (spec->scheme != QuarkScheme::kGroup) return fields.Wrong("qscheme", "per_group");
    RETURN_IF_ERROR(CheckWord(fields, "scale_calculation_mode", "even", {"even", "floor", "ceil"}));
    ASSIGN_OR_RETURN(const std::string mode, fields.String("scale_calculation_mode", "even"));
    spec->exponent = mode == "even"    ? QuarkExponent::kEven
                     : mode == "floor" ? QuarkExponent::kFloor
                                       : QuarkExponent::kCeil;
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckWord(fields, "scale_format", "float32", {"float32"}));
  ASSIGN_OR_RETURN(const std::string type, fields.String("scale_type", "float"));
  if (type == "float") return absl::OkStatus();
  spec->scale_dtype = DTypeFromTorch(type);
  if (spec->scale_dtype && InfoOf(*spec->scale_dtype).is_float && SizeOf(*spec->scale_dtype) >= 2 &&
      *spec->scale_dtype != DType::kF64) {
    return absl::OkStatus();
  }
  return fields.Wrong("scale_type", "float, float32, float16 or bfloat16");
}

absl::StatusOr<QuarkSpec> ReadSpec(const json& value, const std::string& where) {
  if (value.is_array()) {
    return absl::UnimplementedError(absl::StrCat(
        where, ": found a list, expected one tensor config; two-stage specs are not supported"));
  }
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  ASSIGN_OR_RETURN(const std::string dtype, fields.String("dtype", ""));
  std::optional<QuarkSpec> spec = QuarkSpecNamed(dtype);
  if (!spec) {
    const absl::Status wrong =
        fields.Wrong("dtype", absl::StrCat("one of ", absl::StrJoin(QuarkDTypes(), ", ")));
    const bool known = std::find(std::begin(kOtherDTypes), std::end(kOtherDTypes), dtype) !=
                       std::end(kOtherDTypes);
    return known ? absl::UnimplementedError(wrong.message()) : wrong;
  }
  if (spec->values == Values::kPlain) return *spec;
  RETURN_IF_ERROR(ReadScheme(fields, &*spec));
  RETURN_IF_ERROR(ReadScaleFormat(fields, &*spec));
  ASSIGN_OR_RETURN(spec->symmetric, fields.Bool("symmetric", true));
  ASSIGN_OR_RETURN(const bool dynamic, fields.Bool("is_dynamic", false));
  if (dynamic) return fields.Wrong("is_dynamic", "false for weights");
  RETURN_IF_ERROR(CheckWord(fields, "round_method", "half_even", {"half_even"}));
  if (spec->values == Values::kInteger) {
    ASSIGN_OR_RETURN(const std::string zero, fields.String("zero_point_type", "int32"));
    if (zero == "float32") {
      return absl::UnimplementedError(
          absl::StrCat(where, ".zero_point_type: found float32, expected int32"));
    }
    if (zero != "int32") return fields.Wrong("zero_point_type", "int32");
  }
  if (spec->values == Values::kFloat8 && spec->scheme == QuarkScheme::kGroup) {
    return fields.Wrong("qscheme", "per_tensor or per_channel: fp8 groups cannot be exported");
  }
  return *spec;
}

// Whether activations have scales in the file.
bool IsStatic(const json& spec) {
  if (spec.is_array()) return true;
  return spec.is_object() && !(spec.contains("is_dynamic") && spec["is_dynamic"] == true);
}

// Activations with a scale that calibration gives.
absl::StatusOr<QuarkSpec> ReadInputs(const json& value, const std::string& where) {
  ASSIGN_OR_RETURN(const QuarkSpec spec, ReadSpec(value, where));
  const auto refuse = [&](const char* key, absl::string_view expected) {
    return absl::UnimplementedError(
        absl::StrCat(where, ".", key, ": ", expected, " for inputs with static scales"));
  };
  if (spec.values != Values::kInteger && spec.values != Values::kFloat8) {
    return refuse("dtype", "expected int2 to int8, uint2 to uint8, fp8_e4m3 or fp8_e5m2");
  }
  if (spec.scheme != QuarkScheme::kTensor) return refuse("qscheme", "expected per_tensor");
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  ASSIGN_OR_RETURN(const std::string observer, fields.String("observer_cls", kTensorObserver));
  if (observer != kTensorObserver) {
    return refuse("observer_cls", absl::StrCat("expected ", kTensorObserver));
  }
  return spec;
}

absl::StatusOr<QuarkLayer> ReadLayer(const json& value, const std::string& where) {
  ASSIGN_OR_RETURN(ConfigFields fields, ConfigFields::Of(value, where));
  QuarkLayer layer;
  if (fields.Has("bias")) {
    return absl::UnimplementedError(
        absl::StrCat(where, ".bias: quantized biases are not supported; expected null"));
  }
  if (fields.Has("input_tensors") && IsStatic(fields.Raw("input_tensors"))) {
    const absl::StatusOr<QuarkSpec> inputs =
        ReadInputs(fields.Raw("input_tensors"), absl::StrCat(where, ".input_tensors"));
    if (inputs.ok()) layer.inputs = *inputs;
    layer.cannot_be_made = inputs.status();
  }
  if (fields.Has("output_tensors") && IsStatic(fields.Raw("output_tensors"))) {
    layer.cannot_be_made = absl::UnimplementedError(absl::StrCat(
        where,
        ".output_tensors: static scales of outputs are not supported; expected null or "
        "is_dynamic: true"));
  }
  if (!fields.Has("weight")) return layer;
  ASSIGN_OR_RETURN(layer.weight, ReadSpec(fields.Raw("weight"), absl::StrCat(where, ".weight")));
  return layer;
}

// An object of pattern to layer config, or null.
absl::StatusOr<const json*> RuleMap(ConfigFields& fields, const char* key) {
  static const json empty = json::object();
  if (!fields.Has(key)) return &empty;
  const json& map = fields.Raw(key);
  if (!map.is_object()) return fields.Wrong(key, "an object of layer configs");
  if (map.size() > kMaxRules) return fields.Wrong(key, "at most 4096 entries");
  return &map;
}

absl::Status ReadRules(ConfigFields& fields, QuarkConfig* config) {
  if (fields.Has("global_quant_config")) {
    ASSIGN_OR_RETURN(config->global, ReadLayer(fields.Raw("global_quant_config"),
                                               "quantization_config.global_quant_config"));
  }
  ASSIGN_OR_RETURN(const json* layers, RuleMap(fields, "layer_quant_config"));
  for (const auto& [glob, value] : layers->items()) {
    const std::string where = absl::StrCat("quantization_config.layer_quant_config.",
                                           absl::Utf8SafeCEscape(glob.substr(0, 200)));
    QuarkConfig::Rule rule;
    ASSIGN_OR_RETURN(rule.pattern, PatternOf(glob, where));
    ASSIGN_OR_RETURN(rule.layer, ReadLayer(value, where));
    config->layers.push_back(std::move(rule));
  }
  ASSIGN_OR_RETURN(const json* types, RuleMap(fields, "layer_type_quant_config"));
  for (const auto& [type, value] : types->items()) {
    const std::string where = absl::StrCat("quantization_config.layer_type_quant_config.",
                                           absl::Utf8SafeCEscape(type.substr(0, 200)));
    ASSIGN_OR_RETURN(QuarkLayer layer, ReadLayer(value, where));
    if (absl::StrContains(type, "Linear")) config->linears = std::move(layer);
  }
  return absl::OkStatus();
}

absl::Status ReadExport(ConfigFields& fields, QuarkConfig* config) {
  if (!fields.Has("export")) {
    return absl::UnimplementedError(
        "quantization_config.export: found nothing; files of Quark before 1.0 are not supported");
  }
  ASSIGN_OR_RETURN(ConfigFields options,
                   ConfigFields::Of(fields.Raw("export"), "quantization_config.export"));
  RETURN_IF_ERROR(CheckWord(options, "pack_method", "reorder", {"reorder", "order"}));
  ASSIGN_OR_RETURN(const std::string method, options.String("pack_method", "reorder"));
  config->reorder = method == "reorder";
  RETURN_IF_ERROR(
      CheckWord(options, "weight_format", "real_quantized", {"real_quantized", "fake_quantized"}));
  ASSIGN_OR_RETURN(const std::string format, options.String("weight_format", "real_quantized"));
  if (format == "real_quantized") return absl::OkStatus();
  return absl::UnimplementedError(
      "quantization_config.export.weight_format: found fake_quantized, expected real_quantized");
}

bool Matches(const RE2& pattern, absl::string_view text) {
  return pattern.Match(re2::StringPiece(text.data(), text.size()), 0, text.size(), RE2::ANCHOR_BOTH,
                       nullptr, 0);
}

}  // namespace

absl::string_view NameOf(QuarkScheme scheme) {
  return scheme == QuarkScheme::kTensor    ? "tensor"
         : scheme == QuarkScheme::kChannel ? "channel"
                                           : "group";
}

BlockShape QuarkSpec::block() const {
  if (scheme == QuarkScheme::kGroup) return {.rows = 1, .cols = group_size};
  if (scheme == QuarkScheme::kChannel) return {.rows = 1, .cols = 0};
  return {.rows = 0, .cols = 0};
}

bool QuarkSpec::is_transposed() const {
  return values == Values::kInteger && scheme == QuarkScheme::kGroup && bits != 3;
}

std::string QuarkSpec::Describe() const {
  if (values == Values::kPlain) return dtype;
  return absl::StrCat(dtype, " ", NameOf(scheme),
                      scheme == QuarkScheme::kGroup ? absl::StrCat(" ", group_size) : "",
                      symmetric ? "" : " asymmetric");
}

std::optional<QuarkSpec> QuarkSpecNamed(absl::string_view dtype) {
  for (const NamedSpec& named : kSpecs) {
    if (dtype != named.dtype) continue;
    QuarkSpec spec;
    spec.dtype = named.dtype;
    spec.values = named.values;
    spec.bits = named.bits;
    spec.is_signed = named.is_signed;
    spec.stored_dtype = named.stored;
    return spec;
  }
  return std::nullopt;
}

std::vector<std::string> QuarkDTypes() {
  std::vector<std::string> names;
  for (const NamedSpec& named : kSpecs) names.push_back(named.dtype);
  return names;
}

const QuarkLayer* QuarkConfig::LayerOf(absl::string_view module) const {
  for (const auto& pattern : exclude) {
    if (Matches(*pattern, module)) return nullptr;
  }
  for (const Rule& rule : layers) {
    if (Matches(*rule.pattern, module)) return &rule.layer;
  }
  return linears ? &*linears : &global;
}

const QuarkSpec* QuarkConfig::SpecOf(absl::string_view module) const {
  const QuarkLayer* layer = LayerOf(module);
  return layer == nullptr || !layer->weight ? nullptr : &*layer->weight;
}

absl::StatusOr<QuarkConfig> ParseQuarkConfig(const std::string& text) {
  ASSIGN_OR_RETURN(const json document, ParseStrictJsonObject(text, "quantization_config"));
  ConfigFields fields(document, "quantization_config");
  QuarkConfig config;
  RETURN_IF_ERROR(ReadRules(fields, &config));
  RETURN_IF_ERROR(ReadExport(fields, &config));
  ASSIGN_OR_RETURN(const std::vector<std::string> exclude, fields.StringList("exclude"));
  for (const std::string& glob : exclude) {
    ASSIGN_OR_RETURN(auto pattern, PatternOf(glob, "quantization_config.exclude"));
    config.exclude.push_back(std::move(pattern));
  }
  const auto is_given = [&](const char* key) {
    return fields.Has(key) && !fields.Raw(key).empty();
  };
  config.needs_calibration = is_given("algo_config") || is_given("kv_cache_quant_config") ||
                             is_given("softmax_quant_spec");
  config.json = document.dump(-1, ' ', false, json::error_handler_t::replace);
  return config;
}

}  // namespace quantd

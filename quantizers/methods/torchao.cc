// torchao: int8, int4, intx and float8 weights as the tensor subclasses that Transformers saves.
#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/torchao.h"
#include "quantizers/method.h"
#include "quantizers/solvers/affine.h"

namespace quantd {
namespace {

AffineMapping MappingOf(AoMapping mapping) {
  switch (mapping) {
    case AoMapping::kAsymmetric:
      return AffineMapping::kAsymmetric;
    case AoMapping::kSymmetricNoClipping:
      return AffineMapping::kSymmetricNoClipping;
    case AoMapping::kSymmetric:
      break;
  }
  return AffineMapping::kSymmetric;
}

AffineSpec SpecOf(const AoScheme& scheme) {
  AffineSpec spec;
  spec.bits = scheme.bits;
  spec.half_range = scheme.reduce_range;
  spec.mapping = MappingOf(scheme.mapping);
  spec.block = scheme.block;
  spec.scale_dtype = scheme.scale_dtype;
  spec.hqq_scales = scheme.hqq_scales;
  if (scheme.tensor == AoTensor::kInt8) {
    spec.scale_dtype = DType::kF32;
    spec.min_scale = 0x1p-23f;  // float32's epsilon for every dtype
  }
  return spec;
}

std::string BlockName(const BlockShape& block) {
  if (block.cols == 1) return "columns";
  if (block.cols > 0) return absl::StrCat("group ", block.cols);
  return block.rows == 0 ? "one scale" : "rows";
}

class TorchAoScheme : public Scheme {
 public:
  explicit TorchAoScheme(AoScheme scheme) : scheme_(std::move(scheme)) {}

  std::string Describe() const override {
    const bool e5m2 = scheme_.float_dtype == DType::kF8E5M2;
    const std::string kind = scheme_.tensor == AoTensor::kFloat8
                                 ? (e5m2 ? "float8_e5m2" : "float8_e4m3fn")
                                 : absl::StrCat("int", scheme_.bits);
    return absl::StrCat(kind, " ", BlockName(scheme_.block), ", ", scheme_.config_class);
  }

  // Upstream leaves matrices of other shapes as they are.
  bool Takes(int64_t rows, int64_t cols) const {
    if (scheme_.needs_multiples_of_16) return rows % 16 == 0 && cols % 16 == 0;
    return scheme_.tensor != AoTensor::kInt4 || cols % scheme_.block.cols == 0;
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (!Takes(rows, cols)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "a matrix of ", rows, "x", cols, " does not fit ", scheme_.config_class, "; expected ",
          scheme_.needs_multiples_of_16
              ? "multiples of 16"
              : absl::StrCat("columns that group_size ", scheme_.block.cols, " divides")));
    }
    if (scheme_.block.cols <= 0 || cols % scheme_.block.cols == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("group_size ", scheme_.block.cols,
                                                   " does not divide the ", cols,
                                                   " columns of the matrix; choose a divisor"));
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    ASSIGN_OR_RETURN(QuantizedTensor out, Solve(weight, StopOf(stats)));
    MarkTorchAo(scheme_, &out);
    return out;
  }

 private:
  absl::StatusOr<QuantizedTensor> Solve(const TensorView& weight,
                                        const StopRequest& stopped) const {
    switch (scheme_.tensor) {
      case AoTensor::kInt4:
        return QuantizeInt4Groups(weight, scheme_.block.cols);
      case AoTensor::kFloat8:
        return QuantizeFloat8(weight, scheme_.block, scheme_.float_dtype);
      default:
        return QuantizeAffine(weight, SpecOf(scheme_), stopped);
    }
  }

  AoScheme scheme_;
};

class TorchAoRecipe : public Recipe {
 public:
  explicit TorchAoRecipe(TorchAoConfig config)
      : config_(std::move(config)), codec_(config_, DType::kBF16) {
    for (const TorchAoConfig::Rule& rule : config_.rules) {
      if (!rule.scheme) continue;
      schemes_.emplace(&*rule.scheme, std::make_unique<TorchAoScheme>(*rule.scheme));
      needs_bfloat16_ = needs_bfloat16_ || rule.scheme->needs_bfloat16;
    }
  }

  absl::string_view method() const override { return "torchao"; }

  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    bool is_named = false;
    const AoScheme* found = config_.SchemeOf(module.name, &is_named);
    if (found == nullptr || IsKept(module)) return nullptr;
    if (!module.is_linear && !is_named && !config_.include_input_output_embeddings) return nullptr;
    const TorchAoScheme* scheme = schemes_.at(found).get();
    return scheme->Takes(module.rows, module.cols) ? scheme : nullptr;
  }

  std::optional<DType> InputDType() const override {
    return needs_bfloat16_ ? std::optional<DType>(DType::kBF16) : std::nullopt;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteTorchAoConfig(config_);
  }

 private:
  // Skip lists are matched against names of parameters, and lose the two embeddings if these are
  // included (quantizer_torchao.py).
  bool IsKept(const ModuleInfo& module) const {
    const bool included = config_.include_input_output_embeddings &&
                          (module.is_output_embedding || !module.is_linear);
    if (!config_.modules_to_not_convert) return !included && IsSkippedByDefault(module);
    const std::string parameter = absl::StrCat(module.name, ".weight");
    return std::any_of(config_.modules_to_not_convert->begin(),
                       config_.modules_to_not_convert->end(), [&](const std::string& pattern) {
                         return !(included && pattern == module.name) &&
                                MatchesSkipPattern(parameter, pattern);
                       });
  }

  TorchAoConfig config_;
  TorchAoCodec codec_;
  std::map<const AoScheme*, std::unique_ptr<TorchAoScheme>> schemes_;
  bool needs_bfloat16_ = false;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(TorchAoConfig config, ParseTorchAoConfig(json));
  if (config.include_input_output_embeddings && config.untie_embedding_weights) {
    return absl::UnimplementedError(
        "untie_embedding_weights: found true with include_input_output_embeddings, expected false; "
        "the output embedding of a tied model is not written apart");
  }
  return std::make_unique<TorchAoRecipe>(std::move(config));
}

// The class that --bits selects when quant_type does not.
absl::Status ApplyBits(const Options& options, TorchAoRequest* request) {
  if (!options.IsSet("bits")) return absl::OkStatus();
  const int64_t bits = options.Int("bits");
  if (!options.IsSet("quant_type")) {
    request->quant_type = bits == 8   ? "Int8WeightOnlyConfig"
                          : bits == 4 ? "Int4WeightOnlyConfig"
                                      : "IntxWeightOnlyConfig";
  }
  const std::string dtype = absl::StrCat("int", bits);
  if (absl::StrContains(request->quant_type, "Intx")) {
    const std::string& given = request->fields.emplace("weight_dtype", dtype).first->second;
    if (given == dtype) return absl::OkStatus();
  } else if (bits == (request->quant_type == "Int4WeightOnlyConfig" ? 4 : 8)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("torchao: option bits ", bits,
                                                 " contradicts quant_type ", request->quant_type,
                                                 " or its weight_dtype"));
}

// Options that are fields of the config classes under the same name.
constexpr const char* kFields[] = {
    "granularity",         "weight_dtype",        "mapping_type",
    "weight_mapping_type", "act_mapping_type",    "scale_dtype",
    "weight_scale_dtype",  "activation_dtype",    "reduce_range",
    "int4_packing_format", "intx_packing_format", "int4_choose_qparams_algorithm",
    "kernel_preference",   "packing_format",      "intx_choose_qparams_algorithm",
    "weight_granularity",
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  TorchAoRequest request;
  request.quant_type = options.String("quant_type");
  for (const char* name : kFields) {
    if (options.IsSet(name)) request.fields[name] = options.String(name);
  }
  RETURN_IF_ERROR(ApplyBits(options, &request));
  if (options.IsSet("group_size")) request.group_size = options.Int("group_size");
  request.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  request.include_input_output_embeddings = options.Bool("include_input_output_embeddings");
  ASSIGN_OR_RETURN(const std::string json, TorchAoRequestJson(request));
  return FromConfig(json);
}

// The config class, and its fields that say what weights become.
std::vector<OptionSpec> WeightOptions() {
  using Type = OptionSpec::Type;
  const std::vector<std::string> dtypes = {"int1", "int2", "int3", "int4",          "int5",
                                           "int6", "int7", "int8", "float8_e4m3fn", "float8_e5m2"};
  const std::vector<std::string> mappings = {"SYMMETRIC", "ASYMMETRIC",
                                             "SYMMETRIC_NO_CLIPPING_ERR"};
  const std::vector<std::string> scales = {"float32", "float16", "bfloat16"};
  const std::vector<std::string> blocks = {"PerTensor", "PerRow", "PerGroup", "PerAxis"};
  return {
      {"quant_type", Type::kString, "Int8WeightOnlyConfig",
       "torchao's config class; the options below are its fields, unset ones upstream's defaults",
       TorchAoConfigClasses()},
      {"bits",
       Type::kInt,
       "",
       "short for a quant_type: 8 int8, 4 int4, others intx weights",
       {"1", "2", "3", "4", "5", "6", "7", "8"}},
      {"group_size", Type::kInt, "", "columns that share a scale (granularity PerGroup)", {}},
      {"granularity", Type::kString, "", "what shares a scale", blocks},
      {"weight_granularity", Type::kString, "", "the same, of int8 activations with intx", blocks},
      {"weight_dtype", Type::kString, "", "of the codes: intx and float8 classes", dtypes},
      {"mapping_type", Type::kString, "", "how intx codes cover the range", mappings},
      {"weight_mapping_type", Type::kString, "", "the same, of int8 activations with intx",
       mappings},
      {"scale_dtype", Type::kString, "", "of intx scales; unset: the weight's", scales},
      {"weight_scale_dtype", Type::kString, "", "the same, of int8 activations with intx", scales},
  };
}

// Fields that say how upstream stores and runs them.
std::vector<OptionSpec> LayoutOptions() {
  using Type = OptionSpec::Type;
  return {
      {"act_mapping_type",
       Type::kString,
       "",
       "how upstream quantizes inputs",
       {"SYMMETRIC", "ASYMMETRIC"}},
      {"activation_dtype",
       Type::kString,
       "",
       "what upstream rounds inputs to",
       {"float8_e4m3fn", "float8_e5m2"}},
      {"reduce_range", Type::kBool, "false", "half the int8 codes (CPUs without VNNI)", {}},
      {"int4_packing_format",
       Type::kString,
       "",
       "layout of int4 weights",
       {"PLAIN", "TILE_PACKED_TO_4D", "PLAIN_INT32", "PRESHUFFLED"}},
      {"int4_choose_qparams_algorithm",
       Type::kString,
       "",
       "how int4 scales are chosen",
       {"TINYGEMM", "HQQ"}},
      {"intx_packing_format", Type::kString, "", "layout of intx weights", {"UNPACKED_TO_INT8"}},
      {"intx_choose_qparams_algorithm",
       Type::kString,
       "",
       "how intx scales are chosen",
       {"AFFINE", "HQQ_SCALE_ONLY"}},
      {"packing_format", Type::kString, "", "layout of float8 weights", {"PLAIN"}},
      {"kernel_preference",
       Type::kString,
       "",
       "upstream's choice of float8 kernel",
       {"AUTO", "TORCH", "MSLK", "EMULATED", "TRITON"}},
  };
}

std::vector<OptionSpec> ModuleOptions() {
  using Type = OptionSpec::Type;
  return {
      ModulesToNotConvertSpec(),
      {"include_input_output_embeddings",
       Type::kBool,
       "false",
       "quantize the embeddings as well",
       {}},
  };
}

std::vector<OptionSpec> TorchAoOptions() {
  std::vector<OptionSpec> options = WeightOptions();
  for (const std::vector<OptionSpec>& more : {LayoutOptions(), ModuleOptions()}) {
    options.insert(options.end(), more.begin(), more.end());
  }
  return options;
}

}  // namespace

Method TorchAoMethod() {
  Method method;
  method.name = "torchao";
  method.summary = "int8, int4, int1 to int8 and float8 weights as torchao's tensor subclasses";
  method.bits = "1-8";
  method.upstream = "Transformers 5.23 with torchao 0.18.0 (int4 runs on NVIDIA only)";
  method.options = TorchAoOptions();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// AMD Quark: int2 to int8, fp8 and Microscaling weights as its Hugging Face export writes them,
// with static scales of activations where a calibration gives them.
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/quark.h"
#include "quantizers/codecs/quark_inputs.h"
#include "quantizers/codecs/quark_pack.h"
#include "quantizers/codecs/quark_plain.h"
#include "quantizers/method.h"
#include "quantizers/solvers/activation_range.h"
#include "quantizers/solvers/observer.h"

namespace quantd {
namespace {

using Values = QuarkSpec::Values;

SharedExponent ExponentOf(QuarkExponent exponent) {
  return exponent == QuarkExponent::kFloor  ? SharedExponent::kFloor
         : exponent == QuarkExponent::kCeil ? SharedExponent::kCeil
                                            : SharedExponent::kEven;
}

absl::StatusOr<QuantizedTensor> Solve(const TensorView& weight, const QuarkSpec& spec) {
  switch (spec.values) {
    case Values::kInteger:
      return QuantizeObservedIntegers(weight, {.bits = spec.bits,
                                               .is_signed = spec.is_signed,
                                               .symmetric = spec.symmetric,
                                               .block = spec.block(),
                                               .scale_dtype = spec.scale_dtype});
    case Values::kFloat8:
      return QuantizeObservedFloat8(weight, spec.block(), spec.stored_dtype, spec.scale_dtype);
    case Values::kMicroscaling: {
      const MicroscalingValues values = spec.bits == 4             ? MicroscalingValues::kE2M1
                                        : spec.dtype == "fp6_e2m3" ? MicroscalingValues::kE2M3
                                                                   : MicroscalingValues::kE3M2;
      return QuantizeMicroscaling(weight, spec.group_size, values, ExponentOf(spec.exponent));
    }
    case Values::kPlain:
      break;
  }
  return QuarkPlain(weight, spec.stored_dtype);
}

class QuarkMatrixScheme : public Scheme {
 public:
  QuarkMatrixScheme(const QuarkLayer& layer, bool reorder)
      : spec_(*layer.weight), inputs_(layer.inputs), reorder_(reorder) {}

  std::string Describe() const override {
    return absl::StrCat(spec_.Describe(),
                        inputs_ ? absl::StrCat(", static ", inputs_->Describe(), " inputs") : "");
  }

  // What upstream's packing cannot hold is refused, not padded: its loader could not read it.
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    const bool grouped = spec_.scheme == QuarkScheme::kGroup && spec_.values != Values::kPlain;
    if (grouped && cols % spec_.group_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat("group_size ", spec_.group_size,
                                                     " does not divide the ", cols,
                                                     " columns of the matrix; choose a divisor"));
    }
    if (spec_.values == Values::kMicroscaling) return CheckMultiple("columns", cols, 4);
    const int together = spec_.values == Values::kInteger ? QuarkCodesPerItem(spec_) : 1;
    if (together == 1) return absl::OkStatus();
    if (spec_.bits != 4 && spec_.scheme == QuarkScheme::kTensor) {
      return absl::InvalidArgumentError(
          absl::StrCat(spec_.dtype, " with qscheme per_tensor cannot be packed; use per_group"));
    }
    if (spec_.is_transposed()) return CheckMultiple("rows", rows, together);
    RETURN_IF_ERROR(CheckMultiple("columns", cols, together));
    if (spec_.scheme == QuarkScheme::kChannel) return CheckMultiple("rows", rows, together);
    // int3 packs the zero points of a row's groups as well.
    return grouped ? CheckMultiple("groups a row", cols / spec_.group_size, together)
                   : absl::OkStatus();
  }

  InputNeeds Needs() const override { return {.extremes = inputs_.has_value()}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    ASSIGN_OR_RETURN(QuantizedTensor out, Solve(weight, spec_));
    MarkQuark(spec_, reorder_, &out);
    if (!inputs_) return out;
    ASSIGN_OR_RETURN(const Tensor range,
                     ObservedRange(stats, {.kind = RangeObserver::Kind::kAll}, weight.dtype));
    ASSIGN_OR_RETURN(const QuantizedTensor rounded, Solve(range, *inputs_));
    SetQuarkInputScale(*inputs_, rounded.scale[0],
                       rounded.zero_point.empty() ? 0 : rounded.zero_point[0], rounded.scale_dtype,
                       &out);
    return out;
  }

 private:
  absl::Status CheckMultiple(absl::string_view what, int64_t found, int64_t divisor) const {
    if (found % divisor == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("found ", found, " ", what, ", expected a multiple of ", divisor, " to pack ",
                     spec_.dtype, "; exclude the module or choose another dtype"));
  }

  QuarkSpec spec_;
  std::optional<QuarkSpec> inputs_;  // with a static scale
  bool reorder_;
};

class QuarkRecipe : public Recipe {
 public:
  explicit QuarkRecipe(QuarkConfig config)
      : config_(std::move(config)), codec_(config_, DType::kBF16) {
    for (const QuarkConfig::Rule& rule : config_.layers) AddScheme(rule.layer);
    if (config_.linears) AddScheme(*config_.linears);
    AddScheme(config_.global);
  }

  absl::string_view method() const override { return "quark"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const QuarkSpec* spec = module.is_linear ? config_.SpecOf(module.name) : nullptr;
    return spec == nullptr ? nullptr : schemes_.at(spec).get();
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override { return config_.json; }
  // Quark observes the inputs of the original model: quantizers of weights and of activations are
  // off while it calibrates (quantization/api.py, _do_calibration).
  std::optional<CalibrationSpec> calibration() const override {
    if (!is_calibrated_) return std::nullopt;
    return CalibrationSpec{.nsamples = 512, .true_sequential = false, .quantized_inputs = false};
  }

 private:
  void AddScheme(const QuarkLayer& layer) {
    if (!layer.weight) return;
    schemes_.emplace(&*layer.weight, std::make_unique<QuarkMatrixScheme>(layer, config_.reorder));
    is_calibrated_ = is_calibrated_ || layer.inputs;
  }

  QuarkConfig config_;
  QuarkCodec codec_;
  std::map<const QuarkSpec*, std::unique_ptr<QuarkMatrixScheme>> schemes_;
  bool is_calibrated_ = false;
};

// What can be read but not made.
absl::Status CheckCanBeMade(const QuarkConfig& config) {
  const auto check = [](const QuarkLayer& layer) {
    if (layer.weight || !layer.inputs) return layer.cannot_be_made;
    return absl::UnimplementedError(
        "input_tensors: static scales need weights that are quantized as well");
  };
  RETURN_IF_ERROR(check(config.global));
  if (config.linears) RETURN_IF_ERROR(check(*config.linears));
  for (const QuarkConfig::Rule& rule : config.layers) RETURN_IF_ERROR(check(rule.layer));
  if (!config.needs_calibration) return absl::OkStatus();
  return absl::UnimplementedError(
      "algo_config, kv_cache_quant_config, softmax_quant_spec: algorithms and caches are not "
      "supported; expected null or nothing in them");
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(QuarkConfig config, ParseQuarkConfig(json));
  RETURN_IF_ERROR(CheckCanBeMade(config));
  return std::make_unique<QuarkRecipe>(std::move(config));
}

// The dtype that --bits selects when `dtype` does not.
absl::StatusOr<std::string> DTypeOf(const Options& options) {
  const std::string& dtype = options.String("dtype");
  if (!options.IsSet("bits")) return dtype;
  const int64_t bits = options.Int("bits");
  if (!options.IsSet("dtype")) return bits == 16 ? "bfloat16" : absl::StrCat("int", bits);
  if (QuarkSpecNamed(dtype)->bits == bits) return dtype;
  return absl::InvalidArgumentError(
      absl::StrCat("quark: option bits ", bits, " contradicts dtype ", dtype));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  QuarkRequest request;
  ASSIGN_OR_RETURN(request.dtype, DTypeOf(options));
  const QuarkSpec spec = *QuarkSpecNamed(request.dtype);
  request.qscheme = options.String("qscheme");
  request.symmetric = options.Bool("symmetric");
  request.scale_calculation_mode = options.String("scale_calculation_mode");
  request.pack_method = options.String("pack_method");
  request.exclude = options.StringList("exclude");
  const bool grouped = request.qscheme == "per_group" ||
                       (request.qscheme.empty() &&
                        (spec.values == Values::kInteger || spec.values == Values::kMicroscaling));
  if (options.IsSet("group_size") && !grouped) {
    return absl::InvalidArgumentError(
        "quark: option group_size contradicts the qscheme; expected per_group");
  }
  if (options.IsSet("scale_calculation_mode") && spec.values != Values::kMicroscaling) {
    return absl::InvalidArgumentError(
        absl::StrCat("quark: option scale_calculation_mode contradicts dtype ", request.dtype,
                     ", whose scales are no powers of two"));
  }
  const bool mx = spec.values == Values::kMicroscaling;
  request.input_dtype = options.String("input_dtype");
  request.input_symmetric = options.Bool("input_symmetric");
  if (options.IsSet("input_symmetric") && request.input_dtype.empty()) {
    return absl::InvalidArgumentError(
        "quark: option input_symmetric belongs to input_dtype; set it, or leave this out");
  }
  request.group_size = options.IsSet("group_size") ? options.Int("group_size") : mx ? 32 : 128;
  return FromConfig(QuarkRequestJson(request));
}

std::vector<OptionSpec> QuarkOptions() {
  using Type = OptionSpec::Type;
  return {
      {"dtype", Type::kString, "int4", "of the weights", QuarkDTypes()},
      {"bits",
       Type::kInt,
       "",
       "short for a dtype: int2 to int8, 16 bfloat16",
       {"2", "3", "4", "8", "16"}},
      {"qscheme",
       Type::kString,
       "",
       "what shares a scale; unset: per_group, for fp8 per_tensor",
       {"per_tensor", "per_channel", "per_group"}},
      {"group_size",
       Type::kInt,
       "",
       "columns that share a scale; unset: 128, for fp4 and fp6 32",
       {}},
      {"symmetric", Type::kBool, "true", "no zero points; false suits uint dtypes", {}},
      {"scale_calculation_mode",
       Type::kString,
       "",
       "how the exponents of fp4 and fp6 are found; unset: even",
       {"even", "floor", "ceil"}},
      {"pack_method",
       Type::kString,
       "reorder",
       "order of 4-bit codes in a word",
       {"reorder", "order"}},
      {"input_dtype",
       Type::kString,
       "",
       "of inputs with one static scale of a calibration; unset: inputs are not quantized",
       {"", "int8", "uint8", "fp8_e4m3", "fp8_e5m2"}},
      {"input_symmetric", Type::kBool, "true", "inputs without zero point", {}},
      {"exclude", Type::kStringList, "lm_head", "modules to keep: names, or patterns with *", {}},
  };
}

}  // namespace

Method QuarkMethod() {
  Method method;
  method.name = "quark";
  method.summary = "int2 to int8, fp8, MXFP4 and MXFP6 weights of AMD Quark's export";
  method.bits = "2-16";
  method.takes_calibration = true;
  method.upstream = "Transformers 5.23 with amd-quark 0.13";
  method.options = QuarkOptions();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// compressed-tensors: llm-compressor's rounding to nearest, by preset or by its numbers, with
// static scales of activations where a calibration gives them.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/compressed_tensors.h"
#include "quantizers/codecs/compressed_tensors_inputs.h"
#include "quantizers/codecs/compressed_tensors_presets.h"
#include "quantizers/method.h"
#include "quantizers/solvers/activation_range.h"
#include "quantizers/solvers/min_max.h"

namespace quantd {
namespace {

MinMaxSpec SpecOf(const CtArgs& args) {
  MinMaxSpec spec;
  spec.bits = args.num_bits;
  spec.symmetric = args.symmetric;
  spec.block = args.block();
  if (args.is_float) {
    spec.values = args.num_bits == 8   ? MinMaxSpec::Values::kE4M3
                  : args.num_bits == 6 ? MinMaxSpec::Values::kE2M3
                                       : MinMaxSpec::Values::kE2M1;
  }
  return spec;
}

MinMaxSpec SpecOf(const CtGroup& group) {
  MinMaxSpec spec = SpecOf(*group.weights);
  if (group.format == CtFormat::kNvfp4Pack) spec.scales = MinMaxSpec::Scales::kTwoLevel;
  if (group.format == CtFormat::kMxfp4Pack || group.format == CtFormat::kMxfp6Pack ||
      group.format == CtFormat::kMxfp8) {
    spec.scales = MinMaxSpec::Scales::kPowerOfTwo;
  }
  return spec;
}

class CtScheme : public Scheme {
 public:
  explicit CtScheme(const CtGroup& group)
      : format_(group.format), args_(*group.weights), inputs_(group.inputs), spec_(SpecOf(group)) {}

  std::string Describe() const override {
    std::string text =
        absl::StrCat(args_.is_float ? "float" : "int", args_.num_bits, " ", NameOf(args_.strategy));
    if (args_.group_size > 0) absl::StrAppend(&text, " ", args_.group_size);
    if (args_.block_rows > 0) absl::StrAppend(&text, " ", args_.block_rows, "x", args_.block_cols);
    absl::StrAppend(&text, args_.symmetric ? "" : " asymmetric", ", ", NameOf(format_));
    if (!has_static_inputs()) return text;
    return absl::StrCat(text, ", static ", inputs_->is_float ? "float" : "int", inputs_->num_bits,
                        inputs_->symmetric ? "" : " asymmetric", " inputs");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (args_.group_size <= 0 || cols % args_.group_size == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("group_size ", args_.group_size, " does not divide the ", cols,
                     " columns of the matrix; choose a divisor or strategy channel"));
  }

  InputNeeds Needs() const override { return {.extremes = has_static_inputs()}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeMinMax(weight, spec_));
    MarkCompressedTensors(format_, args_.strategy, &out);
    if (has_static_inputs()) {
      RETURN_IF_ERROR(ScaleInputs(weight.dtype, stats, &out));
    } else if (inputs_) {
      out.input.rounding = DynamicCtInputs(*inputs_);
    }
    return out;
  }

 private:
  bool has_static_inputs() const { return inputs_ && inputs_->is_static; }

  // The observers' names are those of initialize_observer, which takes minmax where none is named.
  absl::Status ScaleInputs(DType dtype, const InputStats* stats, QuantizedTensor* out) const {
    using Kind = RangeObserver::Kind;
    const RangeObserver observer = {.kind = inputs_->observer == "static_minmax" ? Kind::kAll
                                            : inputs_->observer == "memoryless_minmax"
                                                ? Kind::kLast
                                                : Kind::kAverage,
                                    .averaging_constant = inputs_->averaging_constant};
    ASSIGN_OR_RETURN(const Tensor range, ObservedRange(stats, observer, dtype));
    MinMaxSpec spec = SpecOf(*inputs_);
    spec.block = {.rows = 0, .cols = 0};
    if (inputs_->is_local) spec.scales = MinMaxSpec::Scales::kTwoLevel;
    ASSIGN_OR_RETURN(const QuantizedTensor rounded, QuantizeMinMax(range, spec));
    SetCtInputScale(*inputs_, inputs_->is_local ? rounded.nested->super_scale[0] : rounded.scale[0],
                    rounded.zero_point.empty() ? 0 : rounded.zero_point[0], dtype, out);
    return absl::OkStatus();
  }

  CtFormat format_;
  CtArgs args_;
  std::optional<CtArgs> inputs_;
  MinMaxSpec spec_;
};

class CtRecipe : public Recipe {
 public:
  explicit CtRecipe(CtConfig config) : config_(std::move(config)), codec_(config_) {
    for (const CtGroup& group : config_.groups) {
      schemes_.push_back(group.weights ? std::make_unique<CtScheme>(group) : nullptr);
    }
  }

  absl::string_view method() const override { return "compressed-tensors"; }

  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear) return nullptr;
    const CtGroup* group = config_.GroupOf(module.name, "Linear");
    return group == nullptr ? nullptr : schemes_[group - config_.groups.data()].get();
  }

  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteCtConfig(config_);
  }
  // llm-compressor 0.14 observes the inputs of the original model: its pipeline disables
  // quantization in all forward passes (DisableQuantization), and the weights stay what they are.
  std::optional<CalibrationSpec> calibration() const override {
    for (const CtGroup& group : config_.groups) {
      if (!group.weights || !group.has_static_inputs()) continue;
      return CalibrationSpec{.nsamples = 512, .true_sequential = false, .quantized_inputs = false};
    }
    return std::nullopt;
  }

 private:
  CtConfig config_;
  CompressedTensorsCodec codec_;
  std::vector<std::unique_ptr<CtScheme>> schemes_;  // one per group
};

// What can be read but not made.
absl::Status CheckCanBeMade(const CtConfig& config) {
  if (config.has_static_kv_cache) {
    return absl::UnimplementedError(
        "kv_cache_scheme: static scales of keys and values are not supported; expected null or "
        "dynamic: true");
  }
  for (const CtGroup& group : config.groups) {
    const std::string where =
        absl::StrCat("activations of the group that targets ",
                     group.targets.targets().empty() ? "nothing" : group.targets.targets()[0]);
    if (group.has_static_outputs) {
      return absl::UnimplementedError(
          absl::StrCat(where,
                       ": output_activations: static scales of outputs are not supported; "
                       "expected null or dynamic: true"));
    }
    if (group.has_static_inputs()) {
      if (!group.weights) {
        return absl::UnimplementedError(absl::StrCat(
            where, ": input_activations: static scales need weights that are quantized as well"));
      }
      RETURN_IF_ERROR(CheckStaticInputs(*group.inputs, absl::StrCat(where, ": input_activations")));
    }
    if (group.weights && group.weights->is_grouped_by_activation) {
      return absl::InvalidArgumentError(
          "actorder: found \"group\", expected null, \"weight\" or \"static\"; compressed-tensors "
          "no longer accepts it");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(CtConfig config, ParseCtConfig(json));
  RETURN_IF_ERROR(CheckCanBeMade(config));
  return std::make_unique<CtRecipe>(std::move(config));
}

constexpr const char* kWeightOptions[] = {"num_bits",        "type",        "symmetric", "strategy",
                                          "block_structure", "scale_dtype", "group_size"};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  CtRequest request;
  request.scheme = options.String("scheme");
  for (const char* name : kWeightOptions) {
    if (!options.IsSet(name)) continue;
    if (options.IsSet("scheme")) {
      return absl::InvalidArgumentError(absl::StrCat("compressed-tensors: option ", name,
                                                     " contradicts scheme ", request.scheme,
                                                     ", which fixes it; leave one of them out"));
    }
    request.scheme.clear();
  }
  request.num_bits = options.Int("num_bits");
  request.type = options.String("type");
  request.symmetric = options.Bool("symmetric");
  request.strategy = options.String("strategy");
  request.block_structure = options.String("block_structure");
  request.scale_dtype = options.String("scale_dtype");
  request.format = options.String("format");
  request.activations = options.String("activations");
  request.observer = options.String("observer");
  if (options.IsSet("observer") && !request.observer.empty() && request.activations != "static" &&
      request.scheme != "FP8" && request.scheme != "NVFP4") {
    return absl::InvalidArgumentError(
        "compressed-tensors: option observer belongs to static activations; set "
        "activations=static, or leave it out");
  }
  request.targets = options.StringList("targets");
  request.ignore = options.StringList("ignore");
  // The default belongs to the group strategy alone.
  const bool grouped = request.strategy.empty() || request.strategy == "group";
  if (options.IsSet("group_size") || grouped) request.group_size = options.Int("group_size");
  if (options.IsSet("group_size") && request.group_size == 0) {
    return absl::InvalidArgumentError(
        "compressed-tensors: option group_size: found 0, expected -1 (channel) or a positive size");
  }
  return FromConfig(CtRequestJson(request));
}

std::vector<OptionSpec> CtOptions() {
  using Type = OptionSpec::Type;
  return {
      {"scheme", Type::kString, "W4A16", "preset scheme; the numbers below replace it",
       CtPresetNames()},
      {"num_bits", Type::kInt, "4", "bits of a weight", {"1", "2", "3", "4", "5", "6", "7", "8"}},
      {"type", Type::kString, "int", "kind of number", {"int", "float"}},
      {"symmetric", Type::kBool, "true", "no zero points", {}},
      {"strategy",
       Type::kString,
       "",
       "what shares a scale; unset: group, or channel for group_size -1",
       {"", "tensor", "channel", "group", "tensor_group", "block"}},
      {"group_size", Type::kInt, "128", "columns that share a scale; -1 is the whole row", {}},
      {"block_structure", Type::kString, "", "rows x columns of a block, as 128x128", {}},
      {"scale_dtype",
       Type::kString,
       "",
       "uint8 for the MX formats",
       {"", "uint8", "float8_e4m3fn"}},
      {"format",
       Type::kString,
       "",
       "storage format; unset: inferred as upstream does",
       {"", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized",
        "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized"}},
      {"activations",
       Type::kString,
       "",
       "8-bit inputs: one scale of a calibration (static), one a token found at run time "
       "(dynamic), "
       "or none; unset: the scheme's",
       {"", "none", "dynamic", "static"}},
      {"observer",
       Type::kString,
       "",
       "the range of static inputs: averaged over the sequences (minmax, the default), over all of "
       "them, or of the last",
       {"", "minmax", "static_minmax", "memoryless_minmax"}},
      {"targets",
       Type::kStringList,
       "Linear",
       "modules to quantize: class, module name or re:pattern",
       {}},
      {"ignore", Type::kStringList, "lm_head", "modules to keep, spelled as targets are", {}},
  };
}

}  // namespace

Method CompressedTensorsMethod() {
  Method method;
  method.name = "compressed-tensors";
  method.summary = "int1 to int8, fp8, NVFP4 and MX weights by tensor, channel, group or block";
  method.bits = "1-8";
  method.takes_calibration = true;
  method.upstream = "Transformers 5.23 with compressed-tensors 0.20.0; vLLM";
  method.options = CtOptions();
  method.bits_option = "num_bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// compressed-tensors: every data-free scheme of llm-compressor, by preset or by its numbers.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/compressed_tensors.h"
#include "quantizers/codecs/compressed_tensors_presets.h"
#include "quantizers/method.h"
#include "quantizers/solvers/min_max.h"

namespace quantd {
namespace {

MinMaxSpec SpecOf(const CtGroup& group) {
  const CtArgs& args = *group.weights;
  MinMaxSpec spec;
  spec.bits = args.num_bits;
  spec.symmetric = args.symmetric;
  spec.block = args.block();
  if (args.is_float) {
    spec.values = args.num_bits == 8   ? MinMaxSpec::Values::kE4M3
                  : args.num_bits == 6 ? MinMaxSpec::Values::kE2M3
                                       : MinMaxSpec::Values::kE2M1;
  }
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
      : format_(group.format), args_(*group.weights), spec_(SpecOf(group)) {}

  std::string Describe() const override {
    std::string text =
        absl::StrCat(args_.is_float ? "float" : "int", args_.num_bits, " ", NameOf(args_.strategy));
    if (args_.group_size > 0) absl::StrAppend(&text, " ", args_.group_size);
    if (args_.block_rows > 0) absl::StrAppend(&text, " ", args_.block_rows, "x", args_.block_cols);
    return absl::StrCat(text, args_.symmetric ? "" : " asymmetric", ", ", NameOf(format_));
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (args_.group_size <= 0 || cols % args_.group_size == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("group_size ", args_.group_size, " does not divide the ", cols,
                     " columns of the matrix; choose a divisor or strategy channel"));
  }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeMinMax(weight, spec_));
    MarkCompressedTensors(format_, args_.strategy, &out);
    return out;
  }

 private:
  CtFormat format_;
  CtArgs args_;
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

 private:
  CtConfig config_;
  CompressedTensorsCodec codec_;
  std::vector<std::unique_ptr<CtScheme>> schemes_;  // one per group
};

// What can be read but not made without data.
absl::Status CheckDataFree(const CtConfig& config) {
  if (config.has_static_kv_cache) {
    return absl::UnimplementedError(
        "kv_cache_scheme: a static scheme needs calibration; expected null or dynamic: true");
  }
  for (const CtGroup& group : config.groups) {
    if (group.has_static_activations) {
      return absl::UnimplementedError(
          absl::StrCat("activations of the group that targets ",
                       group.targets.targets().empty() ? "nothing" : group.targets.targets()[0],
                       " are static and need calibration; use dynamic: true, for example the "
                       "schemes FP8_DYNAMIC, W8A8 or NVFP4A16"));
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
  RETURN_IF_ERROR(CheckDataFree(config));
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
  method.upstream = "Transformers 5.23 with compressed-tensors 0.20.0; vLLM";
  method.options = CtOptions();
  method.bits_option = "num_bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// FP-Quant: MXFP4 or NVFP4 under a rotation of the inputs, as Transformers' FPQuantConfig asks for.
#include "quantizers/codecs/fp_quant.h"

#include <algorithm>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

class FpQuantScheme : public Scheme {
 public:
  explicit FpQuantScheme(const FpQuantConfig& config)
      : config_(config),
        rotation_(
            FpQuantRotation(config.transform_init, config.hadamard_group_size, DType::kBF16)) {}

  std::string Describe() const override { return config_.Describe(); }
  absl::Status CheckShape(int64_t, int64_t cols) const override {
    if (cols % config_.hadamard_group_size == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "hadamard_group_size ", config_.hadamard_group_size, " does not divide the ", cols,
        " columns; choose a smaller one or list the layer in modules_to_not_convert"));
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    return QuantizeFpQuant(config_, weight, rotation_, StopOf(stats));
  }

 private:
  FpQuantConfig config_;
  std::vector<float> rotation_;
};

class FpQuantRecipe : public Recipe {
 public:
  explicit FpQuantRecipe(FpQuantConfig config)
      : config_(std::move(config)), scheme_(config_), codec_(config_) {}

  absl::string_view method() const override { return "fp_quant"; }
  // By ends of names, be it inside a word, unlike most of Transformers' skip lists.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const std::vector<std::string>& kept = config_.modules_to_not_convert;
    const bool named = std::any_of(kept.begin(), kept.end(), [&](const std::string& end) {
      return absl::EndsWith(module.name, end);
    });
    return !module.is_linear || named ? nullptr : &scheme_;
  }
  // Transformers' quantizer knows no other.
  std::optional<DType> InputDType() const override { return DType::kBF16; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteFpQuantConfig(config_);
  }

 private:
  FpQuantConfig config_;
  FpQuantScheme scheme_;
  FpQuantCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  FpQuantConfig config;
  config.forward_dtype = options.String("forward_dtype");
  config.forward_method = options.String("forward_method");
  config.backward_dtype = options.String("backward_dtype");
  config.store_master_weights = options.Bool("store_master_weights");
  config.hadamard_group_size = options.IsSet("hadamard_group_size")
                                   ? options.Int("hadamard_group_size")
                                   : FpQuantGroupOf(config.forward_dtype);
  config.pseudoquantization = options.Bool("pseudoquantization");
  config.transform_init = options.String("transform_init");
  config.modules_to_not_convert = options.StringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckFpQuantConfig(config));
  RETURN_IF_ERROR(CheckFpQuantRuns(config));
  return std::make_unique<FpQuantRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(FpQuantConfig config, ParseFpQuantConfig(json));
  RETURN_IF_ERROR(CheckFpQuantRuns(config));
  return std::make_unique<FpQuantRecipe>(std::move(config));
}

std::vector<OptionSpec> FpQuantOptions() {
  using Type = OptionSpec::Type;
  return {
      {"forward_dtype", Type::kString, "nvfp4", "format of weights and inputs", {"nvfp4", "mxfp4"}},
      {"forward_method",
       Type::kString,
       "abs_max",
       "what scales follow from: the largest value, or (mxfp4 alone) the deviation",
       {"abs_max", "quest"}},
      {"backward_dtype",
       Type::kString,
       "bf16",
       "format of gradients where upstream trains the result; mxfp8 and mxfp4 for mxfp4 alone",
       {"bf16", "mxfp8", "mxfp4"}},
      {"store_master_weights",
       Type::kBool,
       "false",
       "write the weights unquantized, for training; upstream quantizes them at every use",
       {}},
      {"hadamard_group_size",
       Type::kInt,
       "16",
       "columns that are rotated together; 32 by default and at least for mxfp4",
       {"16", "32", "64", "128"}},
      {"pseudoquantization",
       Type::kBool,
       "false",
       "write values in 16 bits instead of codes, for GPUs before Blackwell",
       {}},
      {"transform_init",
       Type::kString,
       "hadamard",
       "the rotation; gsr: with the Hadamard matrix' columns in order of sequency",
       {"hadamard", "identity", "gsr"}},
      {"modules_to_not_convert",
       Type::kStringList,
       "lm_head",
       "modules to keep, by the ends of their names",
       {}},
  };
}

}  // namespace

Method FpQuantMethod() {
  Method method;
  method.name = "fp_quant";
  method.summary = "FP-Quant: MXFP4 or NVFP4 under a rotation of the inputs";
  method.bits = std::string("4");
  method.upstream = "Transformers 5.23 with fp_quant 0.3.2 (Blackwell; pseudoquantized any GPU)";
  method.options = FpQuantOptions();
  method.group_size_option = "hadamard_group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// Four Over Six: FP4 blocks whose largest value becomes 4 or 6.
#include "quantizers/codecs/fouroversix.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

class FourOverSixScheme : public Scheme {
 public:
  explicit FourOverSixScheme(FourOverSixConfig config) : config_(std::move(config)) {}
  std::string Describe() const override {
    return absl::StrCat(config_.dtype, " ", config_.scale_rule,
                        config_.weight_scale_2d ? " 2d" : "");
  }
  absl::Status CheckShape(int64_t, int64_t) const override { return absl::OkStatus(); }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    float absmax = 0;
    ASSIGN_OR_RETURN(QuantizedTensor out,
                     QuantizeFourOverSix(weight, config_.spec(), &absmax, StopOf(stats)));
    MarkFourOverSix(config_, weight.dtype, absmax, &out);
    return out;
  }

 private:
  FourOverSixConfig config_;
};

class FourOverSixRecipe : public Recipe {
 public:
  explicit FourOverSixRecipe(FourOverSixConfig config)
      : config_(std::move(config)), scheme_(config_), codec_(config_) {}

  absl::string_view method() const override { return "fouroversix"; }
  // By whole names, unlike most of Transformers' skip lists.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const std::vector<std::string>& kept = config_.modules_to_not_convert;
    const bool named = std::find(kept.begin(), kept.end(), module.name) != kept.end();
    return !module.is_linear || named ? nullptr : &scheme_;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteFourOverSixConfig(config_);
  }

 private:
  FourOverSixConfig config_;
  FourOverSixScheme scheme_;
  FourOverSixCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  FourOverSixConfig config;
  config.dtype = options.String("dtype");
  config.scale_rule = options.String("scale_rule");
  config.weight_scale_2d = options.Bool("weight_scale_2d");
  config.modules_to_not_convert = options.StringList("modules_to_not_convert");
  // The default belongs to NVFP4 alone.
  if (config.dtype == "mxfp4" && !options.IsSet("scale_rule")) config.scale_rule = "static_6";
  RETURN_IF_ERROR(CheckFourOverSixConfig(config));
  return std::make_unique<FourOverSixRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(FourOverSixConfig config, ParseFourOverSixConfig(json));
  return std::make_unique<FourOverSixRecipe>(std::move(config));
}

}  // namespace

Method FourOverSixMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "fouroversix";
  method.summary = "Four Over Six: NVFP4 whose blocks reach 4 or 6, whichever is closer; MXFP4";
  method.bits = std::string("4");
  method.upstream = "Transformers 5.23 with fouroversix 1.0.5";
  method.options = {
      {"dtype", Type::kString, "nvfp4", "format of the blocks", {"nvfp4", "mxfp4"}},
      {"scale_rule",
       Type::kString,
       "mse",
       "what chooses between 4 and 6; mxfp4 takes static_6 (its default) or static_4",
       {"mse", "mae", "abs_max", "static_6", "static_4"}},
      {"weight_scale_2d", Type::kBool, "false", "scales for squares of columns and rows", {}},
      {"modules_to_not_convert",
       Type::kStringList,
       "lm_head",
       "modules to keep, by whole name",
       {}},
  };
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

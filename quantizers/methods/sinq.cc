// SINQ: rows and columns scaled to like deviations, then groups of columns rounded to their range.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/sinq.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

class SinqScheme : public Scheme {
 public:
  explicit SinqScheme(SinqSpec spec) : spec_(spec) {}
  std::string Describe() const override {
    return absl::StrCat("uint", spec_.bits, " group ", spec_.group_size, " dual scales (SINQ)");
  }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    return CheckSinqShape(spec_, rows, cols);
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    return QuantizeSinq(weight, spec_, StopOf(stats));
  }

 private:
  SinqSpec spec_;
};

class SinqRecipe : public Recipe {
 public:
  explicit SinqRecipe(SinqConfig config)
      : config_(std::move(config)), scheme_(config_.spec), codec_(config_, DType::kBF16) {}

  absl::string_view method() const override { return "sinq"; }
  // Transformers keeps nothing by itself here, the head neither; a tied head has no weight.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const std::vector<std::string> kept =
        config_.modules_to_not_convert.value_or(std::vector<std::string>{});
    return !module.is_linear || module.is_tied || IsSkipped(module, kept) ? nullptr : &scheme_;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteSinqConfig(config_);
  }
  std::map<std::string, std::string> ExtraFiles(
      const ModelConfig& config, const std::vector<ModuleInfo>& modules) const override {
    std::vector<SinqModule> quantized;
    for (const ModuleInfo& module : modules) {
      quantized.push_back({module.name, module.rows, module.cols});
    }
    return {{kSinqMetaFile, WriteSinqMeta(config_, config.dtype, !config.is_encoder(), quantized)}};
  }

 private:
  SinqConfig config_;
  SinqScheme scheme_;
  SinqCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> RecipeOf(SinqConfig config) {
  if (config.method != "sinq") {
    return absl::UnimplementedError(
        "sinq: method asinq is calibrated and only read; quantize with method sinq");
  }
  return std::make_unique<SinqRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  SinqConfig config;
  config.spec.bits = static_cast<int>(options.Int("nbits"));
  config.spec.group_size = options.Int("group_size");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckSinqConfig(config));
  return RecipeOf(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(SinqConfig config, ParseSinqConfig(json));
  return RecipeOf(std::move(config));
}

}  // namespace

Method SinqMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "sinq";
  method.summary = "SINQ: rows and columns scaled to like deviations, then rounded in groups";
  method.bits = "1-6, 8";
  method.upstream = "sinq 0.2.0 (with Transformers 5.23)";
  method.options = {
      {"nbits", Type::kInt, "4", "bits of a weight", {"1", "2", "3", "4", "5", "6", "8"}},
      {"group_size", Type::kInt, "64", "columns that share scale and zero point", {}},
      {"modules_to_not_convert", Type::kStringList, "", "modules to keep; unset: none", {}},
  };
  method.bits_option = "nbits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

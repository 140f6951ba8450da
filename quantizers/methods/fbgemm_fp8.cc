// FBGEMM_FP8: float8_e4m3fn rows, as Llama 3.1 405B FP8 is published.
#include <memory>

#include "quantizers/codecs/fp8.h"
#include "quantizers/codecs/fp8_config.h"
#include "quantizers/method.h"
#include "quantizers/solvers/fp8.h"

namespace quantd {
namespace {

class RowScheme : public Scheme {
 public:
  std::string Describe() const override { return "fp8 rows"; }
  absl::Status CheckShape(int64_t, int64_t) const override { return absl::OkStatus(); }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    return QuantizeRowsFp8(weight);
  }
};

class FbgemmRecipe : public Recipe {
 public:
  explicit FbgemmRecipe(FbgemmFp8Config config)
      : config_(std::move(config)), codec_(FbgemmFp8Layout(config_.activation_scale_ub)) {}

  absl::string_view method() const override { return "fbgemm_fp8"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool kept = !module.is_linear || IsSkipped(module, config_.modules_to_not_convert);
    return kept ? nullptr : &scheme_;
  }
  // Upstream's kernels take bfloat16 only.
  std::optional<DType> InputDType() const override { return DType::kBF16; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteFbgemmFp8Config(config_);
  }

 private:
  FbgemmFp8Config config_;
  RowScheme scheme_;
  Fp8Codec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  FbgemmFp8Config config;
  config.activation_scale_ub = options.Float("activation_scale_ub");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckFbgemmFp8Config(config));
  return std::make_unique<FbgemmRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(FbgemmFp8Config config, ParseFbgemmFp8Config(json));
  return std::make_unique<FbgemmRecipe>(std::move(config));
}

}  // namespace

Method FbgemmFp8Method() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "fbgemm_fp8";
  method.summary = "FBGEMM_FP8: float8_e4m3fn rows with float32 scales";
  method.bits = std::string("8");
  method.upstream = "Transformers 5.23 with fbgemm-gpu-genai 1.9.0 (NVIDIA only)";
  method.options = {
      {"activation_scale_ub",
       Type::kFloat,
       "1200.0",
       "bound of the inputs' absmax; written to config.json",
       {}},
      ModulesToNotConvertSpec(),
  };
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

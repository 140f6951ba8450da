// SpQR: 3-bit tiles with quantized scales, and outliers beside them, as the SpQR repository's
// quantizer makes them for spqr_quant.
#include "quantizers/codecs/spqr.h"

#include <cmath>
#include <limits>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "quantizers/methods/calibrated_gram.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/spqr.h"

namespace quantd {
namespace {

class SpqrScheme : public Scheme {
 public:
  SpqrScheme(const SpqrSpec& spec, SpqrSparse sparse) : spec_(spec), sparse_(sparse) {}

  std::string Describe() const override {
    return absl::StrCat("spqr 3 bit, tiles of 16, ",
                        std::isfinite(spec_.outlier_threshold)
                            ? absl::StrCat("outliers above ", spec_.outlier_threshold)
                            : "no outliers",
                        ", ", sparse_ == SpqrSparse::kCsr ? "csr" : "ptcsr",
                        spec_.act_order ? ", act_order" : "");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (rows % 16 == 0 && cols % 16 == 0 && cols <= 32767) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("SpQR stores tiles of 16 by 16 and at most 32767 columns, found ", rows,
                     " by ", cols, "; list the layer in modules_to_not_convert"));
  }

  InputNeeds Needs() const override { return {.gram = true}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    ASSIGN_OR_RETURN(const std::vector<float> gram, MeanGram(stats, cols, "SpQR"));
    ASSIGN_OR_RETURN(QuantizedTensor out,
                     SolveSpqr(FloatsOf(weight), rows, cols, gram, spec_, StopOf(stats)));
    MarkSpqr(sparse_, &out);
    return out;
  }

 private:
  SpqrSpec spec_;
  SpqrSparse sparse_;
};

class SpqrRecipe : public Recipe {
 public:
  SpqrRecipe(SpqrConfig config, const SpqrSpec& spec, SpqrSparse sparse)
      : config_(std::move(config)), scheme_(spec, sparse), codec_(config_) {}

  absl::string_view method() const override { return "spqr"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool takes = module.is_linear && !module.is_tied && module.layer >= 0;
    return takes && !config_.IsSkipped(module.name) ? &scheme_ : nullptr;
  }
  std::optional<DType> InputDType() const override { return DType::kF16; }
  std::optional<CalibrationSpec> calibration() const override { return CalibrationSpec{}; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig& model) const override {
    SpqrConfig written = config_;
    for (const std::string& module : LinearsOutsideBlocks(model)) {
      written.modules_to_not_convert.push_back(module);
      written.modules_to_not_convert.push_back(absl::StrCat(module, ".weight"));
    }
    return WriteSpqrConfig(written);
  }

 private:
  const SpqrConfig config_;
  SpqrScheme scheme_;
  SpqrCodec codec_;
};

// Patterns of module names, and as 4.56 spells them the names of their weights.
std::vector<std::string> BothSpellings(const std::vector<std::string>& modules) {
  std::vector<std::string> both;
  for (const std::string& module : modules) {
    both.push_back(module);
    if (!absl::EndsWith(module, ".weight")) both.push_back(absl::StrCat(module, ".weight"));
  }
  return both;
}

absl::StatusOr<double> ReadThreshold(const std::string& text) {
  if (text == "none") return std::numeric_limits<double>::infinity();
  double value;
  if (absl::SimpleAtod(text, &value) && std::isfinite(value) && value >= 0) return value;
  return absl::InvalidArgumentError(
      "spqr: outlier_threshold: expected a number of at least 0, or none");
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  SpqrConfig config;
  config.modules_to_not_convert = BothSpellings(options.StringList("modules_to_not_convert"));
  SpqrSpec spec;
  ASSIGN_OR_RETURN(spec.outlier_threshold, ReadThreshold(options.String("outlier_threshold")));
  spec.percdamp = options.Float("percdamp");
  if (spec.percdamp < 0 || spec.percdamp > 100) {
    return absl::InvalidArgumentError("spqr: percdamp: expected 0 to 100");
  }
  spec.act_order = options.String("permutation_order") == "act_order";
  spec.simplified_outliers = options.Bool("simplified_outliers");
  spec.exact_outliers = options.Bool("exact_outliers");
  const SpqrSparse sparse =
      options.String("sparse_strategy") == "csr" ? SpqrSparse::kCsr : SpqrSparse::kPtcsr;
  return std::make_unique<SpqrRecipe>(std::move(config), spec, sparse);
}

// A quantization_config says nothing of how the codes were found: the README's settings. Its sizes
// are those of other tensors.
absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(SpqrConfig config, ParseSpqrConfig(json));
  config.shapes.clear();
  return std::make_unique<SpqrRecipe>(std::move(config), SpqrSpec(), SpqrSparse::kCsr);
}

std::vector<OptionSpec> SpqrOptions() {
  using Type = OptionSpec::Type;
  return {
      {"outlier_threshold",
       Type::kString,
       "0.2",
       "error above which a weight becomes an outlier, relative to the mean; none: no outliers",
       {}},
      {"permutation_order",
       Type::kString,
       "act_order",
       "order of the columns: by falling Hessian diagonal, or as they are",
       {"act_order", "identity"}},
      {"percdamp", Type::kFloat, "1.0", "dampening of the Hessian, times its mean diagonal", {}},
      {"simplified_outliers",
       Type::kBool,
       "false",
       "fit scales with the outliers in; faster, worse",
       {}},
      {"exact_outliers",
       Type::kBool,
       "false",
       "store what the dense part lacks of an outlier; false: the whole weight, as upstream does, "
       "although readers add the two",
       {}},
      {"sparse_strategy", Type::kString, "csr", "index of the outliers", {"csr", "ptcsr"}},
      {"modules_to_not_convert", Type::kStringList, "lm_head", "modules to keep", {}},
  };
}

}  // namespace

Method SpqrMethod() {
  Method method;
  method.name = "spqr";
  method.summary = "SpQR: 3 bits with two-level scales, and the weights that cost most as outliers";
  method.bits = std::string("3");
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.opencl = false;  // it runs there dense
  method.upstream = "spqr_quant 0.2, Transformers 4.56 (NVIDIA only)";
  method.options = SpqrOptions();
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// BitNet b1.58: ternary weights. Upstream trains them; rounding a model that was not trained for it
// destroys it, but gives the files that training starts from and that upstream loads.
#include "quantizers/codecs/bitnet.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "quantizers/solvers/absmean.h"

namespace quantd {
namespace {

class TernaryScheme : public Scheme {
 public:
  explicit TernaryScheme(const BitNetConfig& config) : config_(config) {}

  std::string Describe() const override {
    return absl::StrCat("ternary (", config_.linear_class, config_.is_online() ? ", online" : "",
                        config_.use_rms_norm ? ", rms norm" : "", ")");
  }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (config_.is_online() || rows % 4 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("upstream packs whole quarters of the rows, found ", rows, "x", cols,
                     "; name the module in modules_to_not_convert"));
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    ASSIGN_OR_RETURN(const float absmean, AbsMeanOf(weight));
    ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeTernary(weight, absmean));
    MarkBitNet(config_, weight, absmean, &out);
    return out;
  }

 private:
  const BitNetConfig& config_;
};

class BitNetRecipe : public Recipe {
 public:
  explicit BitNetRecipe(BitNetConfig config)
      : config_(std::move(config)), scheme_(config_), codec_(config_, ModelConfig()) {}

  absl::string_view method() const override { return "bitnet"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool kept = !module.is_linear || IsSkipped(module, config_.modules_to_not_convert);
    return kept ? nullptr : &scheme_;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteBitNetConfig(config_);
  }

 private:
  BitNetConfig config_;
  TernaryScheme scheme_;
  BitNetCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  BitNetConfig config;
  config.linear_class = options.String("linear_class");
  config.quantization_mode = options.String("quantization_mode");
  config.use_rms_norm = options.Bool("use_rms_norm");
  config.rms_norm_eps = options.Float("rms_norm_eps");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckBitNetConfig(config));
  return std::make_unique<BitNetRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(BitNetConfig config, ParseBitNetConfig(json));
  return std::make_unique<BitNetRecipe>(std::move(config));
}

}  // namespace

Method BitNetMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "bitnet";
  method.summary = "BitNet b1.58: ternary weights, int8 inputs; for models trained that way";
  method.bits = std::string("2");
  method.upstream = "Transformers 5.23";
  method.options = {
      {"linear_class",
       Type::kString,
       "bitlinear",
       "upstream's class of the layers",
       {"bitlinear", "autobitlinear"}},
      {"quantization_mode",
       Type::kString,
       "offline",
       "online keeps float weights and makes them ternary when they are used (autobitlinear)",
       {"offline", "online"}},
      {"use_rms_norm", Type::kBool, "false", "every layer normalizes its inputs", {}},
      {"rms_norm_eps", Type::kFloat, "1e-6", "epsilon of that norm", {}},
      ModulesToNotConvertSpec(),
  };
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

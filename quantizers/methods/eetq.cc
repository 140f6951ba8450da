// EETQ: int8 rows for CUTLASS' mixed-input kernels.
#include "quantizers/codecs/eetq.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "quantizers/solvers/absmax.h"

namespace quantd {
namespace {

class EetqScheme : public Scheme {
 public:
  std::string Describe() const override { return "int8 rows (EETQ)"; }
  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (rows % kEetqTile == 0 && cols % kEetqTile == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "EETQ's layout needs multiples of ", kEetqTile, " rows and columns, found ", rows, "x",
        cols, "; name the module in modules_to_not_convert or take another method"));
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    if (weight.shape.size() == 2) RETURN_IF_ERROR(CheckShape(weight.shape[0], weight.shape[1]));
    return QuantizeRowsFullInt8(weight);
  }
};

class EetqRecipe : public Recipe {
 public:
  explicit EetqRecipe(EetqConfig config) : config_(std::move(config)) {}

  absl::string_view method() const override { return "eetq"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool kept = !module.is_linear || IsSkipped(module, config_.modules_to_not_convert);
    return kept ? nullptr : &scheme_;
  }
  // Upstream's kernels multiply in float16; its quantizer refuses bfloat16.
  std::optional<DType> InputDType() const override { return DType::kF16; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteEetqConfig(config_);
  }

 private:
  EetqConfig config_;
  EetqScheme scheme_;
  EetqCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  EetqConfig config;
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckEetqConfig(config));
  return std::make_unique<EetqRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(EetqConfig config, ParseEetqConfig(json));
  return std::make_unique<EetqRecipe>(std::move(config));
}

}  // namespace

Method EetqMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "eetq";
  method.summary = "EETQ: int8 rows in the layout of CUTLASS' mixed-input kernels";
  method.bits = std::string("8");
  method.upstream = "Transformers 5.23 with EETQ 465e9726 (NVIDIA only)";
  method.options = {
      {"weights", Type::kString, "int8", "the type of the codes", {"int8"}},
      ModulesToNotConvertSpec(),
  };
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

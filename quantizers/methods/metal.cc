// Metal: MLX' affine groups, as Transformers 5.23 quantizes to them (_affine_quantize_tensor).
#include "quantizers/codecs/metal.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/method.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

// Codes come from scale and offset in float32; both are stored in the weight's dtype, within its
// range.
absl::StatusOr<QuantizedTensor> QuantizeAffine(const MetalConfig& config,
                                               const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  RETURN_IF_ERROR(CheckMetalShape(config, weight.shape[1]));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(config.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = config.group_size};
  out.scale_dtype = out.dequantized_dtype = weight.dtype;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  const auto groups = static_cast<size_t>(out.rows * out.cols / config.group_size);
  out.scale.resize(groups);
  out.offset.resize(groups);
  const float steps = static_cast<float>((1 << config.bits) - 1);
  const float largest =
      WithArithmetic(weight.dtype, [](auto arithmetic) { return decltype(arithmetic)::kMax; });
  ForEachRun(weight, {out.rows, out.cols, out.block}, [&](const Run& run) {
    const auto [low, high] = std::minmax_element(run.values, run.values + run.count);
    const float offset = *low;
    const float scale = std::min(std::max((*high - offset) / steps, 1e-8f), largest);
    for (int64_t i = 0; i < run.count; ++i) {
      const float step = RoundHalfEven(std::min((run.values[i] - offset) / scale, steps));
      out.codes[run.first + i] = static_cast<uint8_t>(step);
    }
    out.scale[run.block] = RoundTo(weight.dtype, scale);
    out.offset[run.block] = offset;
  });
  return out;
}

class MetalScheme : public Scheme {
 public:
  explicit MetalScheme(MetalConfig config) : config_(std::move(config)) {}
  std::string Describe() const override {
    return absl::StrCat("uint", config_.bits, " group ", config_.group_size, " affine (MLX)");
  }
  absl::Status CheckShape(int64_t, int64_t cols) const override {
    return CheckMetalShape(config_, cols);
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    return QuantizeAffine(config_, weight);
  }

 private:
  MetalConfig config_;
};

class MetalRecipe : public Recipe {
 public:
  explicit MetalRecipe(MetalConfig config)
      : config_(std::move(config)), scheme_(config_), codec_(config_) {}

  absl::string_view method() const override { return "metal"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool kept = !module.is_linear || IsSkipped(module, config_.modules_to_not_convert);
    return kept ? nullptr : &scheme_;
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteMetalConfig(config_);
  }

 private:
  MetalConfig config_;
  MetalScheme scheme_;
  MetalCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  MetalConfig config;
  config.bits = static_cast<int>(options.Int("bits"));
  config.group_size = options.Int("group_size");
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  RETURN_IF_ERROR(CheckMetalConfig(config));
  return std::make_unique<MetalRecipe>(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(MetalConfig config, ParseMetalConfig(json));
  return std::make_unique<MetalRecipe>(std::move(config));
}

}  // namespace

Method MetalMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "metal";
  method.summary = "MLX' affine groups: unsigned codes with a scale and a bias for each group";
  method.bits = "2, 4, 8";
  method.upstream = "Transformers 5.23 (kernels on Apple silicon only; dequantizes elsewhere)";
  method.options = {
      {"bits", Type::kInt, "4", "bits of a weight", {"2", "4", "8"}},
      {"group_size", Type::kInt, "64", "columns that share scale and bias", {}},
      ModulesToNotConvertSpec(),
  };
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

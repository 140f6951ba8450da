// AWQ: groups of integers, with columns scaled and groups clipped by what the inputs are, as
// AutoAWQ makes them.
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/method.h"
#include "quantizers/methods/awq_block.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

// A matrix on its own: clipped and rounded. Column factors need the operation before it.
class AwqScheme : public Scheme {
 public:
  AwqScheme(const AwqOptions& options, bool clips)
      : options_(options), clips_(clips && options.apply_clip) {}

  std::string Describe() const override {
    return absl::StrCat("awq int", options_.spec.bits, ", ",
                        options_.spec.group_size > 0
                            ? absl::StrCat("group ", options_.spec.group_size)
                            : "whole rows",
                        options_.spec.zero_point ? ", asymmetric" : ", symmetric",
                        !options_.apply_scale  ? ""
                        : options_.duo_scaling ? ", scaled"
                                               : ", scaled by inputs",
                        clips_ ? ", clipped" : "");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    const int bits = options_.spec.bits;
    return CheckAwqShape(options_.version, /*interleaved=*/bits == 4, bits,
                         options_.spec.GroupOf(cols), rows, cols);
  }

  InputNeeds Needs() const override { return {.sample_rows = clips_ ? 512 : 0}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (clips_ && (stats == nullptr || stats->samples.empty())) {
      return absl::InvalidArgumentError(
          "AWQ clips weights by the layer's inputs: give a calibration text, or set apply_clip and "
          "apply_scale to false");
    }
    ASSIGN_OR_RETURN(HalfMatrix matrix, ToHalfMatrix(weight));
    return QuantizeByAwq(std::move(matrix), options_, clips_, stats ? *stats : InputStats());
  }

 private:
  const AwqOptions options_;
  const bool clips_;
};

class AwqRecipe : public Recipe {
 public:
  AwqRecipe(AwqConfig config, const AwqOptions& options, const CalibrationSpec& calibration)
      : config_(std::move(config)),
        options_(options),
        calibration_(calibration),
        solver_(options),
        codec_(config_),
        clipped_(options, true),
        unclipped_(options, false) {}

  absl::string_view method() const override { return "awq"; }
  // Linears of blocks.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || module.layer < 0) return nullptr;
    if (config_.modules_to_not_convert && IsSkipped(module, config_.modules_to_not_convert)) {
      return nullptr;
    }
    return IsClippedByAwq(module.name) ? &clipped_ : &unclipped_;
  }
  // AutoAWQ loads every model in float16.
  std::optional<DType> InputDType() const override { return DType::kF16; }
  const Codec* codec() const override { return &codec_; }
  std::optional<CalibrationSpec> calibration() const override {
    return is_calibrated() ? std::optional(calibration_) : std::nullopt;
  }
  const BlockSolver* block_solver() const override { return is_calibrated() ? &solver_ : nullptr; }
  std::string QuantizationConfig(const ModelConfig& model) const override {
    AwqConfig written = config_;
    for (const std::string& module : LinearsOutsideBlocks(model)) {
      if (!written.modules_to_not_convert) written.modules_to_not_convert.emplace();
      written.modules_to_not_convert->push_back(module);
    }
    return WriteAwqConfig(written);
  }

 private:
  bool is_calibrated() const { return options_.apply_scale || options_.apply_clip; }

  const AwqConfig config_;
  const AwqOptions options_;
  const CalibrationSpec calibration_;
  const AwqBlockSolver solver_;
  const AwqCodec codec_;
  const AwqScheme clipped_;
  const AwqScheme unclipped_;
};

absl::Status Refuse(absl::string_view option, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("awq: ", option, ": ", why));
}

absl::Status Check(const AwqConfig& config) {
  if (config.group_size < -1 || config.group_size == 0) {
    return Refuse("group_size", absl::StrCat("found ", config.group_size,
                                             ", expected a positive number, or -1 for whole rows"));
  }
  if (config.version != AwqVersion::kGemm && config.bits != 4) {
    return Refuse("bits", absl::StrCat(NameOf(config.version), " stores 4; choose gemm"));
  }
  const bool stores_zeros = config.version != AwqVersion::kMarlin;
  if (!stores_zeros && config.zero_point) {
    return Refuse("zero_point", "marlin stores none; set it to false");
  }
  if (config.modules_to_not_convert) {
    RETURN_IF_ERROR(CheckSkipPatterns(*config.modules_to_not_convert, "modules_to_not_convert"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Recipe>> Make(AwqConfig config, AwqOptions options,
                                             CalibrationSpec calibration) {
  RETURN_IF_ERROR(Check(config));
  options.spec = {config.bits, config.group_size, config.zero_point};
  options.version = config.version;
  // The next block is calibrated with what the original one gives.
  calibration.true_sequential = false;
  calibration.quantized_inputs = false;
  return std::make_unique<AwqRecipe>(std::move(config), options, calibration);
}

constexpr CalibrationSpec kCalibration = {.nsamples = 128, .seqlen = 512};

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& given) {
  AwqConfig config;
  config.bits = static_cast<int>(given.Int("bits"));
  config.group_size = given.Int("group_size");
  config.zero_point = given.Bool("zero_point");
  config.version = *AwqVersionNamed(given.String("version"));
  config.modules_to_not_convert = given.OptionalStringList("modules_to_not_convert");
  AwqOptions options;
  options.apply_scale = given.Bool("apply_scale");
  options.duo_scaling = given.Bool("duo_scaling");
  options.apply_clip = given.Bool("apply_clip");
  CalibrationSpec calibration = kCalibration;
  calibration.nsamples = given.Int("max_calib_samples");
  calibration.seqlen = given.Int("max_calib_seq_len");
  for (const char* name : {"max_calib_samples", "max_calib_seq_len"}) {
    if (given.Int(name) < 1) return Refuse(name, "expected 1 or more");
  }
  return Make(std::move(config), options, calibration);
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(AwqConfig config, ParseAwqConfig(json));
  if (config.varies) {
    return absl::UnimplementedError(
        "quantization_config.dynamic: AWQ with modules that differ can be read, not made; remove "
        "it");
  }
  config.by_auto_round = false;  // it is not
  return Make(std::move(config), AwqOptions(), kCalibration);
}

std::vector<OptionSpec> AwqOptionSpecs() {
  using Type = OptionSpec::Type;
  return {
      {"bits",
       Type::kInt,
       "4",
       "bits per weight; others than 4 are GPTQModel's, with gemm only",
       {"2", "3", "4", "5", "6", "7", "8"}},
      {"group_size", Type::kInt, "128", "weights of a row that share a scale; -1: whole rows", {}},
      {"zero_point", Type::kBool, "true", "a zero point for every group; false: symmetric", {}},
      {"version",
       Type::kString,
       "gemm",
       "the layout; gemm is what current loaders read",
       {"gemm", "gemv", "gemv_fast", "marlin"}},
      {"modules_to_not_convert",
       Type::kStringList,
       "",
       "modules to keep: suffixes or patterns",
       {}},
      {"apply_scale",
       Type::kBool,
       "true",
       "scale columns and fold the inverse into the operation before; needs a whole model",
       {}},
      {"duo_scaling",
       Type::kBool,
       "true",
       "search factors by inputs and weights, not inputs alone",
       {}},
      {"apply_clip", Type::kBool, "true", "clip groups where it brings outputs nearer", {}},
      {"max_calib_samples", Type::kInt, "128", "calibration sequences", {}},
      {"max_calib_seq_len", Type::kInt, "512", "tokens of a calibration sequence", {}},
  };
}

}  // namespace

Method AwqMethod() {
  Method method;
  method.name = "awq";
  method.summary = "AWQ: integer groups, scaled and clipped by the activations";
  method.bits = "2, 3, 4, 5, 6, 7, 8";
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.upstream = "AutoAWQ 0.2.9, GPTQModel 7.7, Transformers 5.23";
  method.options = AwqOptionSpecs();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

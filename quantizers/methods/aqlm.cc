// AQLM: additive vector codebooks, 1 to 3 bits, as the AQLM repository's main.py makes them for
// aqlm.
#include "quantizers/codecs/aqlm.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/method.h"
#include "quantizers/methods/aqlm_tuner.h"
#include "quantizers/methods/calibrated_gram.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/additive.h"

namespace quantd {
namespace {

std::vector<float> Rounded(std::vector<float> values) {
  for (float& value : values) value = RoundTo(DType::kF16, value);
  return values;
}

class AqlmScheme : public Scheme {
 public:
  AqlmScheme(const AqlmConfig& config, const AdditiveSpec& spec) : config_(config), spec_(spec) {}

  std::string Describe() const override {
    return absl::StrCat("aqlm ", spec_.num_codebooks, "x", spec_.nbits_per_codebook, ", groups of ",
                        spec_.out_group_size, " by ", spec_.in_group_size);
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (rows % spec_.out_group_size != 0 || cols % spec_.in_group_size != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "groups of ", spec_.out_group_size, " rows and ", spec_.in_group_size,
          " columns do not divide a matrix of ", rows, " by ", cols,
          "; choose other group sizes or list the layer in linear_weights_not_to_quantize"));
    }
    const int64_t tiles = rows * cols / spec_.size();
    if (tiles >= spec_.entries()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "a matrix of ", rows, " by ", cols, " has ", tiles, " groups of weights, fewer than the ",
        spec_.entries(), " vectors of a codebook; choose a smaller nbits_per_codebook"));
  }

  InputNeeds Needs() const override { return {.gram = true}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    const int64_t rows = weight.shape[0], cols = weight.shape[1];
    ASSIGN_OR_RETURN(const std::vector<float> gram, MeanGram(stats, cols, "AQLM"));
    ASSIGN_OR_RETURN(AdditiveResult found,
                     SolveAdditive(FloatsOf(weight), rows, cols, gram, spec_, StopOf(stats)));
    QuantizedTensor out = EmptyAqlm(config_, rows, cols, DType::kF16);
    out.grid.table = Rounded(std::move(found.codebooks));
    out.scale = Rounded(std::move(found.scales));
    for (const float scale : out.scale) {
      if (!std::isfinite(scale)) {
        return absl::InvalidArgumentError(
            "a row's norm is beyond float16, which AQLM stores it in; keep the layer");
      }
    }
    if (spec_.nbits_per_codebook <= 8) {
      out.codes.assign(found.codes.begin(), found.codes.end());
    } else {
      out.wide_codes.assign(found.codes.begin(), found.codes.end());
    }
    return out;
  }

 private:
  AqlmConfig config_;
  AdditiveSpec spec_;
};

class AqlmRecipe : public Recipe {
 public:
  AqlmRecipe(AqlmConfig config, const AdditiveSpec& spec, const AqlmTuning& tuning,
             bool true_sequential)
      : config_(std::move(config)),
        true_sequential_(true_sequential),
        tunes_(tuning.finetune_max_epochs > 0),
        scheme_(config_, spec),
        tuner_(tuning),
        codec_(config_) {}

  absl::string_view method() const override { return "aqlm"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const bool takes = module.is_linear && !module.is_tied && module.layer >= 0;
    return takes && !config_.IsSkipped(module.name) ? &scheme_ : nullptr;
  }
  std::optional<DType> InputDType() const override { return DType::kF16; }
  std::optional<CalibrationSpec> calibration() const override {
    return CalibrationSpec{.nsamples = 1024, .seqlen = 4096, .true_sequential = true_sequential_};
  }
  const BlockTuner* block_tuner() const override { return tunes_ ? &tuner_ : nullptr; }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig& model) const override {
    return WriteAqlmConfig(ConfigFor(model));
  }
  std::string QuantizationConfigKeeping(const ModelConfig& model, const std::vector<ModuleInfo>&,
                                        const std::vector<std::string>& kept) const override {
    AqlmConfig config = ConfigFor(model);
    std::vector<std::string>& names = config.linear_weights_not_to_quantize;
    for (const std::string& name : kept) {
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
    }
    return WriteAqlmConfig(config);
  }

 private:
  // Transformers replaces every linear that is not listed by its module.
  AqlmConfig ConfigFor(const ModelConfig& model) const {
    AqlmConfig config = config_;
    for (const std::string& module : LinearsOutsideBlocks(model)) {
      config.linear_weights_not_to_quantize.push_back(module);
      config.linear_weights_not_to_quantize.push_back(absl::StrCat(module, ".weight"));
    }
    return config;
  }

  const AqlmConfig config_;
  const bool true_sequential_, tunes_;
  AqlmScheme scheme_;
  AqlmTuner tuner_;
  AqlmCodec codec_;
};

AdditiveSpec SpecOf(const AqlmConfig& config) {
  AdditiveSpec spec;
  spec.in_group_size = config.in_group_size;
  spec.out_group_size = config.out_group_size;
  spec.num_codebooks = config.num_codebooks;
  spec.nbits_per_codebook = config.nbits_per_codebook;
  return spec;
}

// The value of an integer option from `min` to `max`.
absl::StatusOr<int> ReadInt(const Options& options, const char* name, int min, int max) {
  const int64_t value = options.Int(name);
  if (value >= min && value <= max) return static_cast<int>(value);
  return absl::InvalidArgumentError(
      absl::StrCat("aqlm: ", name, ": found ", value, ", expected ", min, " to ", max));
}

// A number from 0 to `max`.
absl::StatusOr<double> ReadRate(const Options& options, const char* name, double max) {
  const double value = options.Float(name);
  if (value >= 0 && value <= max) return value;
  return absl::InvalidArgumentError(
      absl::StrCat("aqlm: ", name, ": found ", value, ", expected 0 to ", max));
}

absl::StatusOr<AqlmTuning> ReadTuning(const Options& options) {
  constexpr int kMany = 1000000;
  constexpr double kBelowOne = 0.999999;
  AqlmTuning tuning;
  ASSIGN_OR_RETURN(tuning.finetune_max_epochs, ReadInt(options, "finetune_max_epochs", 0, kMany));
  ASSIGN_OR_RETURN(tuning.finetune_early_stop, ReadInt(options, "finetune_early_stop", 1, kMany));
  ASSIGN_OR_RETURN(tuning.finetune_lr, ReadRate(options, "finetune_lr", 1));
  ASSIGN_OR_RETURN(tuning.finetune_batch_size, ReadInt(options, "finetune_batch_size", 1, kMany));
  ASSIGN_OR_RETURN(tuning.finetune_adam_beta1, ReadRate(options, "finetune_adam_beta1", kBelowOne));
  ASSIGN_OR_RETURN(tuning.finetune_adam_beta2, ReadRate(options, "finetune_adam_beta2", kBelowOne));
  ASSIGN_OR_RETURN(tuning.val_size, ReadInt(options, "val_size", 0, kMany));
  tuning.seed = static_cast<uint64_t>(options.Int("seed"));
  return tuning;
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  AqlmConfig config;
  ASSIGN_OR_RETURN(config.num_codebooks, ReadInt(options, "num_codebooks", 1, 64));
  ASSIGN_OR_RETURN(config.nbits_per_codebook, ReadInt(options, "nbits_per_codebook", 1, 16));
  ASSIGN_OR_RETURN(config.in_group_size, ReadInt(options, "in_group_size", 1, 64));
  ASSIGN_OR_RETURN(config.out_group_size, ReadInt(options, "out_group_size", 1, 64));
  // Transformers 4 looks for the name of a weight, 5 for that of a module.
  for (const std::string& module : options.StringList("linear_weights_not_to_quantize")) {
    if (!absl::EndsWith(module, ".weight")) {
      config.linear_weights_not_to_quantize.push_back(absl::StrCat(module, ".weight"));
    }
    config.linear_weights_not_to_quantize.push_back(module);
  }
  RETURN_IF_ERROR(CheckAqlmConfig(config));
  AdditiveSpec spec = SpecOf(config);
  ASSIGN_OR_RETURN(spec.init_max_iter, ReadInt(options, "init_max_iter", 0, 100000));
  ASSIGN_OR_RETURN(spec.max_epochs, ReadInt(options, "max_epochs", 0, 1000000));
  ASSIGN_OR_RETURN(spec.steps_per_epoch, ReadInt(options, "steps_per_epoch", 0, 1000000));
  ASSIGN_OR_RETURN(spec.beam_size, ReadInt(options, "beam_size", 1, 64));
  spec.relative_mse_tolerance = options.Float("relative_mse_tolerance");
  ASSIGN_OR_RETURN(const double lr, ReadRate(options, "lr", 1));
  spec.lr = static_cast<float>(lr);
  spec.seed = static_cast<uint64_t>(options.Int("seed"));
  ASSIGN_OR_RETURN(const AqlmTuning tuning, ReadTuning(options));
  return std::make_unique<AqlmRecipe>(std::move(config), spec, tuning,
                                      options.Bool("true_sequential"));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(AqlmConfig config, ParseAqlmConfig(json));
  const AdditiveSpec spec = SpecOf(config);
  return std::make_unique<AqlmRecipe>(std::move(config), spec, AqlmTuning(),
                                      /*true_sequential=*/false);
}

std::vector<OptionSpec> AqlmOptions() {
  using Type = OptionSpec::Type;
  return {
      {"num_codebooks", Type::kInt, "1", "vectors that are summed for a group of weights", {}},
      {"nbits_per_codebook", Type::kInt, "16", "bits of a code, 1 to 16", {}},
      {"in_group_size", Type::kInt, "8", "columns of a group of weights", {}},
      {"out_group_size", Type::kInt, "1", "rows of a group of weights", {}},
      {"init_max_iter", Type::kInt, "100", "iterations of the k-means that starts", {}},
      {"max_epochs", Type::kInt, "1000", "rounds of training and beam search at most", {}},
      {"steps_per_epoch", Type::kInt, "100", "steps of Adam in a round", {}},
      {"relative_mse_tolerance",
       Type::kFloat,
       "0.01",
       "ends when a round lowers the error by less than this part; below 0: all rounds",
       {}},
      {"lr", Type::kFloat, "0.0001", "learning rate of Adam", {}},
      {"beam_size", Type::kInt, "1", "versions of a row that the search keeps", {}},
      {"true_sequential",
       Type::kBool,
       "false",
       "later linears of a block see what the quantized earlier ones give",
       {}},
      {"finetune_max_epochs",
       Type::kInt,
       "5",
       "epochs in which a block's codebooks, scales, norms and biases are trained together; 0: "
       "none",
       {}},
      {"finetune_early_stop",
       Type::kInt,
       "3",
       "with val_size: ends after so many epochs that are not better",
       {}},
      {"finetune_lr", Type::kFloat, "0.00001", "learning rate of the fine-tuning", {}},
      {"finetune_batch_size", Type::kInt, "1", "sequences in a step of it", {}},
      {"finetune_adam_beta1", Type::kFloat, "0.9", "of its Adam", {}},
      {"finetune_adam_beta2", Type::kFloat, "0.95", "of its Adam", {}},
      {"val_size",
       Type::kInt,
       "0",
       "sequences that the fine-tuning leaves out to choose the best epoch by; 0: the last one",
       {}},
      {"seed", Type::kInt, "0", "of the random starts and orders", {}},
      {"linear_weights_not_to_quantize", Type::kStringList, "lm_head", "modules to keep", {}},
  };
}

}  // namespace

Method AqlmMethod() {
  Method method;
  method.name = "aqlm";
  method.summary = "AQLM: sums of learned vectors, about 2 bits; best at that size, slow to make";
  method.bits = "1-3";
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.opencl = false;  // it runs there dense
  method.upstream = "aqlm 1.1.7, Transformers 5.23";
  method.options = AqlmOptions();
  method.group_size_option = "in_group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

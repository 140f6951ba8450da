// AutoRound: integers whose rounding is trained block by block, or found without data (iters 0), in
// auto-round's own packings and in those of GPTQ and AWQ.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/autoround.h"
#include "quantizers/codecs/autoround_document.h"
#include "quantizers/method.h"
#include "quantizers/methods/autoround_block.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

struct AutoRoundOptions {
  AutoRoundConfig config;
  AutoRoundFormat format = AutoRoundFormat::kAutoRound;
  std::string extra_config;  // JSON text as given, or empty
  AutoRoundTraining training;
  CalibrationSpec calibration;
  bool disable_opt_rtn = false;
};

// Takes the place of a scheme where two patterns give a module different ones.
class DisagreeingScheme : public Scheme {
 public:
  std::string Describe() const override { return "two entries of layer_config"; }
  absl::Status CheckShape(int64_t, int64_t) const override {
    return absl::InvalidArgumentError(
        "two patterns of layer_config match the module and disagree; name it itself");
  }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView&, const InputStats*) const override {
    return CheckShape(0, 0);
  }
};

class AutoRoundRecipe : public Recipe {
 public:
  explicit AutoRoundRecipe(AutoRoundOptions options)
      : options_(std::move(options)), solver_(options_.training), codec_(options_.config) {
    AddScheme(options_.config.layer);
    for (const AutoRoundOverride& entry : options_.config.extra_config) {
      AddScheme(entry.Applied(options_.config.layer));
    }
  }

  absl::string_view method() const override { return "autoround"; }

  // Linears of blocks; others only by name.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || module.is_tied) return nullptr;
    if (module.layer < 0 && !IsNamed(module.name)) return nullptr;
    const auto layer = options_.config.LayerOf(module.name);
    if (!layer.ok()) return &disagreeing_;
    const auto found = schemes_.find(KeyOf(*layer, module.layer >= 0));
    return found == schemes_.end() ? nullptr : &found->second;
  }
  const Codec* codec() const override { return &codec_; }

  std::optional<CalibrationSpec> calibration() const override {
    return options_.training.iters > 0 ? std::optional(options_.calibration) : std::nullopt;
  }
  const BlockSolver* block_solver() const override {
    return options_.training.iters > 0 ? &solver_ : nullptr;
  }

  std::string QuantizationConfig(const ModelConfig& config) const override {
    return ConfigText(BlocksName(config));
  }
  std::string QuantizationConfigFor(const ModelConfig& config,
                                    const std::vector<ModuleInfo>& modules) const override {
    for (const ModuleInfo& module : modules) {
      for (const char* blocks : {".layers.", ".layer."}) {
        const size_t at = module.name.find(blocks);
        if (at != std::string::npos) {
          return ConfigText(module.name.substr(0, at + std::string(blocks).size() - 1));
        }
      }
    }
    return QuantizationConfig(config);
  }

 private:
  using Key = std::tuple<int, int64_t, bool, bool>;
  static Key KeyOf(const AutoRoundLayer& layer, bool in_block) {
    return {layer.bits, layer.group_size, layer.sym, in_block};
  }

  bool SearchesScale(const AutoRoundLayer& layer) const {
    return options_.training.iters == 0 && layer.sym && !options_.disable_opt_rtn;
  }

  void AddScheme(const AutoRoundLayer& layer) {
    if (layer.bits >= 16) return;
    AutoRoundSpelling spelling{.spec = {layer.bits, layer.group_size, layer.sym},
                               .packing = options_.config.packing,
                               .stores_group_index = options_.config.stores_group_index,
                               .searches_scale = SearchesScale(layer)};
    schemes_.try_emplace(KeyOf(layer, false), spelling);
    spelling.iters = options_.training.iters;
    schemes_.try_emplace(KeyOf(layer, true), spelling);
  }

  bool IsNamed(absl::string_view module) const {
    const auto& entries = options_.config.extra_config;
    return std::any_of(entries.begin(), entries.end(),
                       [module](const auto& entry) { return entry.name == module; });
  }

  std::string ConfigText(const std::string& blocks) const {
    return AutoRoundConfigText(options_.config,
                               {.format = options_.format,
                                .iters = options_.training.iters,
                                .enable_quanted_input = options_.training.enable_quanted_input,
                                .blocks = blocks,
                                .extra_config = options_.extra_config});
  }

  const AutoRoundOptions options_;
  const AutoRoundBlockSolver solver_;
  const AutoRoundCodec codec_;
  const DisagreeingScheme disagreeing_;
  std::map<Key, AutoRoundScheme> schemes_;
};

absl::Status Refuse(absl::string_view option, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("autoround: ", option, ": ", why));
}

// What layers are quantized to: of the recipe, then of the overrides.
std::vector<AutoRoundLayer> LayersOf(const AutoRoundConfig& config) {
  std::vector<AutoRoundLayer> layers = {config.layer};
  for (const AutoRoundOverride& entry : config.extra_config) {
    layers.push_back(entry.Applied(config.layer));
  }
  std::erase_if(layers, [](const AutoRoundLayer& layer) { return layer.bits >= 16; });
  return layers;
}

// int8's noise would drown the errors of many bits, which are what training looks at.
ProductRounding UsualRounding(const AutoRoundConfig& config) {
  constexpr int kMostBits = 4;
  const std::vector<AutoRoundLayer> layers = LayersOf(config);
  const bool few = std::ranges::all_of(
      layers, [](const AutoRoundLayer& layer) { return layer.bits <= kMostBits; });
  return few ? ProductRounding::kInt8 : ProductRounding::kBFloat16;
}

absl::StatusOr<std::optional<ProductRounding>> RoundingOf(const Options& given,
                                                          const AutoRoundConfig& config) {
  if (!given.Bool("amp")) {
    if (!given.IsSet("products")) return std::nullopt;
    return Refuse("products", "amp=false multiplies float32; set one of the two");
  }
  if (!given.IsSet("products")) return UsualRounding(config);
  return given.String("products") == "int8" ? ProductRounding::kInt8 : ProductRounding::kBFloat16;
}

// Whether the checkpoint can hold the layers.
absl::Status Check(const AutoRoundOptions& options) {
  const AutoRoundConfig& config = options.config;
  if (options.format != AutoRoundFormat::kAutoRound && !config.extra_config.empty()) {
    return Refuse("layer_config", "only format auto_round describes layers that differ");
  }
  if (options.format == AutoRoundFormat::kAutoAwq && config.layer.bits != 4) {
    return Refuse("bits", "auto_awq stores 4 bits; choose another format");
  }
  for (const AutoRoundLayer& layer : LayersOf(config)) {
    const int least = config.packing == AutoRoundPacking::kAwq ? 4 : 2;
    const int most = config.packing == AutoRoundPacking::kAwq ? 7 : 8;
    if (layer.bits < least || layer.bits > most) {
      return Refuse("bits", absl::StrCat("found ", layer.bits, ", ", PackingFormatOf(config),
                                         " stores ", least, " to ", most));
    }
  }
  return absl::OkStatus();
}

// "auto_round" means the packing that the layers allow.
void ChoosePacking(const std::string& format, AutoRoundOptions* options) {
  AutoRoundConfig& config = options->config;
  if (format == "auto_gptq") {
    options->format = AutoRoundFormat::kAutoGptq;
    config.stores_group_index = true;
  } else if (format == "auto_awq") {
    options->format = AutoRoundFormat::kAutoAwq;
    config.packing = AutoRoundPacking::kAwq;
  } else if (format == "auto_round:auto_awq") {
    config.packing = AutoRoundPacking::kAwq;
  } else if (format == "auto_round:gptqmodel") {
    config.packing = AutoRoundPacking::kPlain;
    config.stores_group_index = true;
  } else if (format == "auto_round" && !config.layer.sym) {
    bool fits_awq = config.layer.bits == 4;
    for (const AutoRoundOverride& entry : config.extra_config) {
      const int bits = entry.Applied(config.layer).bits;
      fits_awq = fits_awq && (bits == 4 || bits >= 16);
    }
    config.packing = fits_awq ? AutoRoundPacking::kAwq : AutoRoundPacking::kPlain;
  }
}

// auto-round-light and auto-round-best, what the command line of that name sets.
void ApplyPreset(const Options& given, AutoRoundOptions* options) {
  const std::string& preset = given.String("preset");
  const bool is_light = preset == "light" || preset == "fast";
  if (is_light && !given.IsSet("iters")) options->training.iters = 50;
  if (is_light && !given.IsSet("lr")) options->training.lr = 5e-3;
  if (preset == "best" && !given.IsSet("iters")) options->training.iters = 1000;
  if (preset == "best" && !given.IsSet("nsamples")) options->calibration.nsamples = 512;
}

absl::StatusOr<std::unique_ptr<Recipe>> Make(AutoRoundOptions options) {
  RETURN_IF_ERROR(Check(options));
  options.calibration.true_sequential = false;
  options.calibration.quantized_inputs = options.training.enable_quanted_input;
  options.calibration.both_inputs = options.training.enable_quanted_input;
  return std::make_unique<AutoRoundRecipe>(std::move(options));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& given) {
  AutoRoundOptions options;
  options.extra_config = given.String("layer_config");
  ASSIGN_OR_RETURN(options.config, AutoRoundConfigOf({.bits = static_cast<int>(given.Int("bits")),
                                                      .group_size = given.Int("group_size"),
                                                      .sym = given.Bool("sym")},
                                                     options.extra_config));
  for (const char* name : {"iters", "seed"}) {
    if (given.Int(name) < 0) return Refuse(name, "expected 0 or more");
  }
  for (const char* name : {"nsamples", "seqlen", "batch_size"}) {
    if (given.Int(name) < 1) return Refuse(name, "expected 1 or more");
  }
  for (const char* name : {"lr", "minmax_lr"}) {
    if (given.Float(name) < 0) return Refuse(name, "expected a positive number");
  }
  AutoRoundTraining& training = options.training;
  training.iters = given.Int("iters");
  training.batch_size = given.Int("batch_size");
  training.lr = given.Float("lr");
  training.minmax_lr = given.Float("minmax_lr");
  training.enable_minmax_tuning = given.Bool("enable_minmax_tuning");
  training.enable_quanted_input = given.Bool("enable_quanted_input");
  training.not_use_best_mse = given.Bool("not_use_best_mse");
  training.seed = given.Int("seed");
  options.calibration.nsamples = given.Int("nsamples");
  options.calibration.seqlen = given.Int("seqlen");
  // Upstream searches no scales at 8 bits unless it is told to.
  options.disable_opt_rtn = given.IsSet("disable_opt_rtn") ? given.Bool("disable_opt_rtn")
                                                           : options.config.layer.bits >= 8;
  ASSIGN_OR_RETURN(training.rounding, RoundingOf(given, options.config));
  ApplyPreset(given, &options);
  ChoosePacking(given.String("format"), &options);
  return Make(std::move(options));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  AutoRoundOptions options;
  ASSIGN_OR_RETURN(options.config, ParseAutoRoundConfig(json));
  ASSIGN_OR_RETURN(const AutoRoundRun run, ParseAutoRoundRun(json));
  options.extra_config = run.extra_config;
  options.training.enable_quanted_input =
      run.enable_quanted_input.value_or(options.training.enable_quanted_input);
  if (run.iters) {
    options.training.iters = *run.iters;
  } else if (!options.training.enable_quanted_input) {
    options.training.iters = 0;  // what upstream writes of it
    options.disable_opt_rtn = true;
  }
  options.training.rounding = UsualRounding(options.config);
  return Make(std::move(options));
}

std::vector<OptionSpec> AutoRoundOptionSpecs() {
  using Type = OptionSpec::Type;
  return {
      {"bits", Type::kInt, "4", "bits per weight", {"2", "3", "4", "5", "6", "7", "8"}},
      {"group_size", Type::kInt, "128", "weights of a row that share a scale; -1: whole rows", {}},
      {"sym", Type::kBool, "true", "one zero point in the middle, scales of either sign", {}},
      {"format",
       Type::kString,
       "auto_round",
       "the checkpoint: auto-round's own in the packing that fits or in a given one, GPTQ's, AWQ's",
       {"auto_round", "auto_round:auto_gptq", "auto_round:auto_awq", "auto_round:gptqmodel",
        "auto_gptq", "auto_awq"}},
      {"iters", Type::kInt, "200", "steps of training per block; 0: none, and no calibration", {}},
      {"preset",
       Type::kString,
       "default",
       "light, or fast: 50 iters at lr 0.005; best: 1000 iters on 512 samples",
       {"default", "light", "fast", "best"}},
      {"nsamples", Type::kInt, "128", "calibration sequences", {}},
      {"seqlen", Type::kInt, "2048", "tokens of a calibration sequence", {}},
      {"batch_size", Type::kInt, "8", "sequences per step", {}},
      {"lr", Type::kFloat, "", "first step size of the rounding; unset: 1 / iters", {}},
      {"minmax_lr", Type::kFloat, "", "first step size of the ranges; unset: lr", {}},
      {"enable_minmax_tuning", Type::kBool, "true", "train the ranges of groups too", {}},
      {"enable_quanted_input",
       Type::kBool,
       "true",
       "train on what the quantized earlier blocks give",
       {}},
      {"not_use_best_mse", Type::kBool, "false", "keep the last instead of the best step", {}},
      {"amp", Type::kBool, "true", "round what is multiplied while training; false: float32", {}},
      {"products",
       Type::kString,
       "",
       "what amp rounds to: int8 is fastest, bfloat16 upstream's; unset: int8 up to 4 bits",
       {"int8", "bfloat16"}},
      {"disable_opt_rtn",
       Type::kBool,
       "",
       "iters 0: round with the scales of the range instead of searched ones; unset: at 8 bits",
       {}},
      {"layer_config",
       Type::kString,
       "",
       "JSON object: module name or pattern to bits, group_size, sym; bits 16 keeps it",
       {}},
      {"seed", Type::kInt, "42", "of the order of sequences", {}},
  };
}

}  // namespace

Method AutoRoundMethod() {
  Method method;
  method.name = "autoround";
  method.summary = "AutoRound: rounding and ranges trained by the sign of the gradient, or plain";
  method.bits = "2, 3, 4, 5, 6, 7, 8";
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.upstream = "auto-round 0.16.1, Transformers 5.23";
  method.options = AutoRoundOptionSpecs();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

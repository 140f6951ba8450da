// GPTQ: integer groups whose rounding errors are made up for by later columns, as GPTQModel's
// QuantizeConfig, AutoGPTQ's BaseQuantizeConfig and Transformers' GPTQConfig ask for it.
#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "quantizers/codecs/gptq.h"
#include "quantizers/codecs/gptq_config.h"
#include "quantizers/method.h"
#include "quantizers/parameter_names.h"
#include "quantizers/solvers/gptq.h"

namespace quantd {
namespace {

class GptqScheme : public Scheme {
 public:
  GptqScheme(const GptqParameters& parameters, GptqFormat format, bool fallback)
      : parameters_(parameters), format_(format), fallback_(fallback) {}

  std::string Describe() const override {
    return absl::StrCat(
        "int", parameters_.bits, " ",
        parameters_.group_size > 0 ? absl::StrCat("group ", parameters_.group_size) : "rows",
        parameters_.sym ? " symmetric" : "", ", ", NameOf(format_),
        parameters_.desc_act ? " with act-order" : "");
  }

  absl::Status CheckShape(int64_t rows, int64_t cols) const override {
    if (rows % 32 == 0 && cols % 32 == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "GPTQ packs 32 inputs and 32 outputs at a time, so both must be multiples of 32; keep the "
        "module by a rule of `dynamic` that begins with \"-:\"");
  }

  InputNeeds Needs() const override { return {.gram = true}; }

  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats* stats) const override {
    if (stats == nullptr || (stats->tokens > 0 && stats->gram.empty())) {
      return absl::InvalidArgumentError(
          "GPTQ is fitted to inputs of the layer: give calibration data");
    }
    const GptqSpec spec = {.bits = parameters_.bits,
                           .group_size = parameters_.group_size,
                           .sym = parameters_.sym,
                           .desc_act = parameters_.desc_act,
                           .static_groups = parameters_.static_groups,
                           .act_group_aware = parameters_.act_group_aware,
                           .damp_percent = parameters_.damp_percent,
                           .damp_auto_increment = parameters_.damp_auto_increment,
                           .mse = parameters_.mse};
    absl::StatusOr<QuantizedTensor> out = Solve(weight, spec, *stats);
    if (absl::IsFailedPrecondition(out.status()) && fallback_) {
      stats->Warn(absl::StrCat("rounded to nearest: ", out.status().message()));
      out = RoundToGptqGrid(weight, spec);
    }
    if (out.ok()) MarkGptq(format_, &*out);
    return out;
  }

 private:
  absl::StatusOr<QuantizedTensor> Solve(const TensorView& weight, const GptqSpec& spec,
                                        const InputStats& stats) const {
    if (stats.tokens <= 0) {
      return absl::FailedPreconditionError("the calibration text sends no token through it");
    }
    ASSIGN_OR_RETURN(
        GptqResult result,
        SolveGptq(weight, spec, {.gram = stats.gram, .tokens = stats.tokens, .stopped = [&stats] {
                                   return stats.stopped();
                                 }}));
    if (result.damp_percent > spec.damp_percent || result.diagonal_floor > 0) {
      stats.Warn(absl::StrCat(
          "damping raised to ", result.damp_percent,
          result.diagonal_floor > 0 ? absl::StrCat(" over a floor of ", result.diagonal_floor) : "",
          "; more calibration text avoids it"));
    }
    return std::move(result.weight);
  }

  const GptqParameters parameters_;
  const GptqFormat format_;
  const bool fallback_;
};

class GptqRecipe : public Recipe {
 public:
  explicit GptqRecipe(GptqConfig config) : config_(std::move(config)), codec_(config_) {
    AddScheme(nullptr);
    for (const GptqRule& rule : config_.dynamic) {
      if (!rule.keeps) AddScheme(&rule);
    }
  }

  absl::string_view method() const override { return "gptq"; }

  // Upstream quantizes the linears of the decoder's blocks, and the output embedding on demand.
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    if (!module.is_linear || module.is_tied) return nullptr;
    if (module.is_output_embedding ? !config_.lm_head : module.layer < 0) return nullptr;
    const auto ends_module = [&module](const std::string& name) {
      return module.name == name || absl::EndsWith(module.name, absl::StrCat(".", name));
    };
    const std::vector<std::string>& wanted = config_.modules_in_block;
    if (!module.is_output_embedding && !wanted.empty() &&
        std::none_of(wanted.begin(), wanted.end(), ends_module)) {
      return nullptr;
    }
    const GptqRule* rule = config_.RuleFor(module.name);
    return rule != nullptr && rule->keeps ? nullptr : &schemes_.at(rule);
  }

  std::optional<CalibrationSpec> calibration() const override {
    return CalibrationSpec{.true_sequential = config_.true_sequential};
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig& model) const override {
    GptqConfig written = config_;
    if (model.is_encoder()) written.block_name = BlocksName(model);
    return WriteGptqConfig(written);
  }

 private:
  void AddScheme(const GptqRule* rule) {
    schemes_.emplace(rule,
                     GptqScheme(config_.ParametersUnder(rule), config_.format, config_.fallback));
  }

  const GptqConfig config_;
  std::map<const GptqRule*, GptqScheme> schemes_;
  GptqCodec codec_;
};

absl::StatusOr<std::unique_ptr<Recipe>> MakeGptq(GptqConfig config) {
  config.word_zeros = true;
  RETURN_IF_ERROR(CheckGptqConfig(config));
  if (config.format == GptqFormat::kMarlin) {
    return absl::InvalidArgumentError(
        "format: serialized Marlin checkpoints can be read but no library writes or needs them any "
        "more; use gptq, which loaders repack for Marlin's kernels");
  }
  if (config.lm_head && config.RuleFor("lm_head") == nullptr) {
    config.dynamic.push_back(GptqHeadRule());
  }
  return std::make_unique<GptqRecipe>(std::move(config));
}

absl::Status CheckRange(const Options& options, const char* name, double most) {
  const double value = options.Float(name);
  if (value >= 0 && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("gptq: ", name, ": found ", value, ", expected 0 to ", most));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  GptqConfig config;
  GptqParameters& parameters = config.parameters;
  parameters.bits = static_cast<int>(options.Int("bits"));
  parameters.group_size = options.Int("group_size");
  if (parameters.group_size < -1 || parameters.group_size == 0 ||
      parameters.group_size > (1 << 30)) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: group_size: found ",
                                                   parameters.group_size,
                                                   ", expected a positive number, or -1 for rows"));
  }
  parameters.sym = options.Bool("sym");
  parameters.desc_act = options.Bool("desc_act");
  parameters.static_groups = options.Bool("static_groups");
  parameters.act_group_aware = options.Bool("act_group_aware");
  if (parameters.desc_act && parameters.act_group_aware) {
    if (options.IsSet("act_group_aware")) {
      return absl::InvalidArgumentError(
          "gptq: act_group_aware contradicts desc_act: choose one order of the columns");
    }
    parameters.act_group_aware = false;
  }
  for (const auto& [name, most] : {std::pair("damp_percent", 1.0),
                                   std::pair("damp_auto_increment", 1.0), std::pair("mse", 16.0)}) {
    RETURN_IF_ERROR(CheckRange(options, name, most));
  }
  parameters.damp_percent = options.Float("damp_percent");
  parameters.damp_auto_increment = options.Float("damp_auto_increment");
  parameters.mse = options.Float("mse");
  config.format = *GptqFormatNamed(options.String("format"));
  const bool planar_only = parameters.bits >= 5 && parameters.bits <= 7;
  if (planar_only && !options.IsSet("format")) config.format = GptqFormat::kPlanar;
  config.lm_head = options.Bool("lm_head");
  config.true_sequential = options.Bool("true_sequential");
  config.fallback = options.Bool("fallback");
  config.modules_in_block = options.StringList("modules_in_block_to_quantize");
  if (!options.String("dynamic").empty()) {
    ASSIGN_OR_RETURN(config.dynamic, ParseGptqRules(options.String("dynamic")));
  }
  return MakeGptq(std::move(config));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(GptqConfig config, ParseGptqConfig(json));
  return MakeGptq(std::move(config));
}

std::vector<OptionSpec> GptqOptions() {
  using Type = OptionSpec::Type;
  return {
      {"bits", Type::kInt, "4", "bits per weight", {"2", "3", "4", "5", "6", "7", "8"}},
      {"group_size", Type::kInt, "128", "inputs that share a scale; -1: whole rows", {}},
      {"sym", Type::kBool, "true", "zero points in the middle; false: fitted to the range", {}},
      {"desc_act", Type::kBool, "false", "act-order: inputs with the largest squares first", {}},
      {"act_group_aware", Type::kBool, "true", "the same within groups; not with desc_act", {}},
      {"static_groups",
       Type::kBool,
       "false",
       "scales from the original weights, groups of neighbours also with desc_act",
       {}},
      {"damp_percent", Type::kFloat, "0.05", "share of the mean added to the diagonal", {}},
      {"damp_auto_increment", Type::kFloat, "0.01", "added to it until a factor exists", {}},
      {"mse", Type::kFloat, "0", "above 0: ranges with the least sum of |error|^mse, 2.4", {}},
      {"true_sequential",
       Type::kBool,
       "true",
       "calibrate a block's later linears behind its quantized earlier ones",
       {}},
      {"fallback", Type::kBool, "true", "round to nearest what saw no tokens; false: fail", {}},
      {"format",
       Type::kString,
       "gptq",
       "gptq: zero points minus one; gptq_v2: as they are; gptq_p: planes, also 5 to 7 bits",
       {"gptq", "gptq_v2", "gptq_p"}},
      {"lm_head", Type::kBool, "false", "also the output embedding, unless it is tied", {}},
      {"dynamic",
       Type::kString,
       "",
       "JSON object of module patterns: \"-:PATTERN\" keeps, others override options",
       {}},
      {"modules_in_block_to_quantize",
       Type::kStringList,
       "",
       "ends of the names of the modules to quantize; unset: all linears of the blocks",
       {}},
  };
}

}  // namespace

Method GptqMethod() {
  Method method;
  method.name = "gptq";
  method.summary = "GPTQ: integer groups whose rounding errors later columns make up for";
  method.bits = "2-8";
  method.needs_calibration = true;
  method.on_the_fly = false;
  method.upstream = "GPTQModel 7.7, Transformers 5.23";
  method.options = GptqOptions();
  method.bits_option = "bits";
  method.group_size_option = "group_size";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

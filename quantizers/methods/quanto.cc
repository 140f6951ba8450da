// optimum-quanto: int2, int4, int8 and float8 weights, as its own quantize() and Transformers'
// QuantoConfig make them.
#include <fnmatch.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/codecs/quanto.h"
#include "quantizers/method.h"
#include "quantizers/solvers/quanto.h"

namespace quantd {
namespace {

// Unix shell-style patterns of quanto's quantize(); `*` also matches dots.
struct NamePatterns {
  std::optional<std::vector<std::string>> include, exclude;

  bool Select(const std::string& module) const {
    if (include && !AnyMatches(*include, module)) return false;
    return !exclude || !AnyMatches(*exclude, module);
  }
  static bool AnyMatches(const std::vector<std::string>& patterns, const std::string& module) {
    return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
      return fnmatch(pattern.c_str(), module.c_str(), FNM_NOESCAPE) == 0;
    });
  }
};

class QuantoScheme : public Scheme {
 public:
  explicit QuantoScheme(const QuantoType& type) : type_(type) {}

  std::string Describe() const override {
    return absl::StrCat(type_.name, type_.bits == 8 ? " rows" : " groups of up to 128");
  }
  // Groups that do not divide the columns make room for whole rows.
  absl::Status CheckShape(int64_t, int64_t) const override { return absl::OkStatus(); }
  absl::StatusOr<QuantizedTensor> Quantize(const TensorView& weight,
                                           const InputStats*) const override {
    ASSIGN_OR_RETURN(QuantizedTensor out, type_.bits == 8
                                              ? QuantizeQuantoRows(weight, type_.dtype, type_.max)
                                              : QuantizeQuantoGroups(weight, type_.bits));
    MarkQuanto(type_, &out);
    return out;
  }

 private:
  const QuantoType& type_;
};

class QuantoRecipe : public Recipe {
 public:
  QuantoRecipe(QuantoConfig config, NamePatterns patterns)
      : config_(std::move(config)), patterns_(std::move(patterns)), codec_(config_, ModelConfig()) {
    if (config_.weights != nullptr) schemes_.emplace(config_.weights, *config_.weights);
    if (!config_.modules) return;
    for (const auto& [module, type] : *config_.modules) schemes_.emplace(type, *type);
  }

  absl::string_view method() const override { return "quanto"; }
  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig&) const override {
    const QuantoType* type = TypeOf(module);
    return type == nullptr ? nullptr : &schemes_.at(type);
  }
  const Codec* codec() const override { return &codec_; }
  std::string QuantizationConfig(const ModelConfig&) const override {
    return WriteQuantoConfig(config_);
  }
  // A matrix outside a model needs its shape; checkpoints have ConfigFiles.
  std::string QuantizationConfigFor(const ModelConfig&,
                                    const std::vector<ModuleInfo>& modules) const override {
    if (modules.size() != 1) return WriteQuantoConfig(config_);
    QuantoConfig config = config_;
    config.weights = TypeOf(modules[0]);
    config.modules.reset();
    config.shape = {modules[0].rows, modules[0].cols};
    return WriteQuantoConfig(config);
  }
  std::map<std::string, std::string> ConfigFiles(
      const std::vector<ModuleInfo>& modules) const override {
    std::vector<std::pair<std::string, const QuantoType*>> types;
    types.reserve(modules.size());
    for (const ModuleInfo& module : modules) types.emplace_back(module.name, TypeOf(module));
    return {{"quanto_qmap.json", WriteQuantoMap(types)}};
  }

 private:
  // Null: the module is kept.
  const QuantoType* TypeOf(const ModuleInfo& module) const {
    if (!module.is_linear) return nullptr;
    if (config_.modules) {
      const auto found = config_.modules->find(module.name);
      return found == config_.modules->end() ? nullptr : found->second;
    }
    const bool own_rules = patterns_.include || patterns_.exclude;
    const bool kept = own_rules ? !patterns_.Select(module.name)
                                : IsSkipped(module, config_.modules_to_not_convert);
    return kept ? nullptr : config_.weights;
  }

  QuantoConfig config_;
  NamePatterns patterns_;
  std::map<const QuantoType*, QuantoScheme> schemes_;
  QuantoCodec codec_;
};

// `bits` and `weights` say the same thing; whoever is set must agree.
absl::StatusOr<const QuantoType*> ReadWeights(const Options& options) {
  const QuantoType* type = FindQuantoType(options.String("weights"));
  if (!options.IsSet("bits")) return type;
  if (!options.IsSet("weights")) return FindQuantoType(absl::StrCat("int", options.Int("bits")));
  if (type->bits == options.Int("bits")) return type;
  return absl::InvalidArgumentError(absl::StrCat("quanto: bits ", options.Int("bits"),
                                                 " contradicts weights ", type->name,
                                                 "; set one of them"));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  QuantoConfig config;
  ASSIGN_OR_RETURN(config.weights, ReadWeights(options));
  if (options.String("activations") != "none") {
    return absl::UnimplementedError(
        "quanto: activations: quantized activations are not supported; expected none");
  }
  config.modules_to_not_convert = options.OptionalStringList("modules_to_not_convert");
  NamePatterns patterns{options.OptionalStringList("include"),
                        options.OptionalStringList("exclude")};
  if (config.modules_to_not_convert && (patterns.include || patterns.exclude)) {
    return absl::InvalidArgumentError(
        "quanto: modules_to_not_convert is Transformers' way, include and exclude are quanto's "
        "own; set one of them");
  }
  RETURN_IF_ERROR(
      CheckSkipPatterns(config.modules_to_not_convert.value_or(std::vector<std::string>{}),
                        "modules_to_not_convert"));
  return std::make_unique<QuantoRecipe>(std::move(config), std::move(patterns));
}

absl::StatusOr<std::unique_ptr<Recipe>> FromConfig(const std::string& json) {
  ASSIGN_OR_RETURN(QuantoConfig config, ParseQuantoConfig(json));
  config.shape.reset();
  return std::make_unique<QuantoRecipe>(std::move(config), NamePatterns());
}

std::vector<OptionSpec> QuantoOptions() {
  using Type = OptionSpec::Type;
  return {
      {"weights",
       Type::kString,
       "int8",
       "type of the weights; float8 is float8_e4m3fn",
       {"int2", "int4", "int8", "float8", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
        "qint2", "qint4", "qint8", "qfloat8", "qfloat8_e4m3fn", "qfloat8_e4m3fnuz",
        "qfloat8_e5m2"}},
      {"bits", Type::kInt, "8", "short for weights int2, int4 or int8", {"2", "4", "8"}},
      {"activations",
       Type::kString,
       "none",
       "quantized activations need calibration",
       {"none", "int8", "float8"}},
      ModulesToNotConvertSpec(),
      {"include", Type::kStringList, "", "patterns of the only modules to quantize", {}},
      {"exclude",
       Type::kStringList,
       "",
       "patterns of modules to keep; with it or include, all others are quantized",
       {}},
  };
}

}  // namespace

Method QuantoMethod() {
  Method method;
  method.name = "quanto";
  method.summary = "optimum-quanto: int2 and int4 groups, int8 and float8 rows";
  method.bits = "2, 4, 8";
  method.upstream = "optimum-quanto 0.2.7";
  method.options = QuantoOptions();
  method.bits_option = "bits";
  method.make = FromOptions;
  method.from_config = FromConfig;
  return method;
}

}  // namespace quantd

// What a job will do to each parameter, decided from names and shapes alone.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/checkpoint_sink.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/parameter_names.h"

namespace quantd {
namespace {

// The dtype of a kept parameter: as stored, or the model's own when a codec held it.
DType KeptDType(const SourceParameter& parameter, const ModelSource& source,
                std::optional<DType> forced) {
  const std::optional<DType> stored = DTypeFromSafetensors(parameter.stored_as);
  if (stored && !InfoOf(*stored).is_float) return *stored;
  if (forced) return *forced;
  // A GGUF keeps vectors in F32 whatever the model's dtype is; a folder has them all alike.
  if (stored && source.gguf_metadata() == nullptr) return *stored;
  return source.config().dtype;
}

absl::Status Refuse(const ModuleInfo& module, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(module.name, " [", module.rows, ", ", module.cols,
                                                  "]: ", status.message()));
}

int LayerOf(const SourceParameter& parameter) {
  return MakeModuleInfo({parameter.name, {0, 0}, false, "", 0}, ModelConfig()).layer;
}

// Where llama_model_quantize puts a tensor: those outside the blocks first, then block by block.
std::pair<int, std::string> GgufOrder(const PlannedParameter& parameter) {
  return {LayerOf(parameter.source), parameter.gguf_name};
}

// GGUF metadata of the output: the source's own with the file type moved to the end, as
// llama_model_quantize leaves it, or made from config and tokenizer.
absl::StatusOr<GgufMetadata> OutputMetadata(const ModelSource& source, absl::string_view model_name,
                                            uint32_t file_type) {
  if (source.gguf_metadata() == nullptr) {
    ASSIGN_OR_RETURN(const SideFiles side_files, source.side_files());
    return MetadataForModel(source.config(), side_files, model_name, file_type);
  }
  GgufMetadata metadata = *source.gguf_metadata();
  metadata.Erase("general.quantization_version");
  metadata.Erase("general.file_type");
  metadata.SetU32("general.quantization_version", 2);
  metadata.SetU32("general.file_type", file_type);
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) metadata.Erase(key);
  return metadata;
}

// Where the importance came from, as llama-quantize notes it.
void NoteImportance(const Recipe& recipe, GgufMetadata& metadata) {
  const ImportanceMatrix* importance = recipe.importance();
  if (importance == nullptr) return;
  if (!recipe.importance_file().empty()) {
    metadata.SetString("quantize.imatrix.file", recipe.importance_file());
  }
  if (!importance->datasets.empty()) {
    metadata.SetString("quantize.imatrix.dataset", importance->datasets.front());
  }
  metadata.SetU32("quantize.imatrix.entries_count",
                  static_cast<uint32_t>(importance->entries().size()));
  if (importance->chunks > 0) {
    metadata.SetU32("quantize.imatrix.chunks_count", static_cast<uint32_t>(importance->chunks));
  }
}

// Whether there is an importance where the type needs one, and for as many columns. As
// llama_model_quantize, an embedding table does without one that does not fit.
absl::Status CheckImportance(const GgufTypePolicy& policy, const Recipe& recipe,
                             PlannedParameter& planned) {
  const std::string& name = planned.gguf_name;
  const size_t found = planned.inputs.importance.size();
  const int64_t cols = planned.source.shape.back();
  if (found > 0 && static_cast<int64_t>(found) != cols) {
    if (name != "token_embd.weight") {
      return absl::InvalidArgumentError(absl::StrCat("the importance matrix has ", found,
                                                     " columns for ", name, ", expected ", cols,
                                                     "; is it another model's?"));
    }
    planned.inputs = {};
  }
  if (!planned.inputs.importance.empty() || !policy.NeedsImportance(name, planned.gguf_type)) {
    return absl::OkStatus();
  }
  const absl::string_view type = FindGgmlType(static_cast<uint32_t>(planned.gguf_type))->name;
  return absl::InvalidArgumentError(
      recipe.importance() != nullptr
          ? absl::StrCat("the importance matrix has no entry for ", name, ", which ", policy.name(),
                         " makes ", type)
          : absl::StrCat(
                policy.name(), " makes ", name, " ", type,
                ", which needs an importance matrix: give a calibration text, or set imatrix "
                "to a file of llama-imatrix in the model root"));
}

using RopeDivisors = std::vector<std::pair<std::string, std::vector<float>>>;

// Tensors of what divides the rotary frequencies, [rotary_dims/2], for longrope and llama3. Source:
// transformers modeling_rope_utils._compute_llama3_parameters, 5.23; the order is llama.cpp's.
RopeDivisors RopeDivisorsOf(const ModelConfig& config) {
  const RopeScaling& scaling = config.rope_scaling;
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    return {{std::string(kRopeLongFactors), scaling.long_factors},
            {std::string(kRopeShortFactors), scaling.short_factors}};
  }
  const std::string name(kRopeFrequencies);
  if (!scaling.frequency_divisors.empty()) return {{name, scaling.frequency_divisors}};
  if (scaling.kind != RopeScaling::Kind::kLlama3) return {};
  const double original = static_cast<double>(scaling.original_max_positions);
  const double long_wavelength = original / scaling.low_freq_factor;
  const double short_wavelength = original / scaling.high_freq_factor;
  std::vector<float> divisors(config.head_dim / 2);
  for (size_t i = 0; i < divisors.size(); ++i) {
    const double exponent = 2.0 * i / config.head_dim;
    const double wavelength = 2 * std::numbers::pi * std::pow(config.rope_theta, exponent);
    if (wavelength < short_wavelength) {
      divisors[i] = 1;
    } else if (wavelength > long_wavelength) {
      divisors[i] = static_cast<float>(scaling.factor);
    } else {
      const double smooth = (original / wavelength - scaling.low_freq_factor) /
                            (scaling.high_freq_factor - scaling.low_freq_factor);
      divisors[i] = static_cast<float>(1 / ((1 - smooth) / scaling.factor + smooth));
    }
  }
  return {{name, divisors}};
}

// Which parameters a folder's recipe takes, by what it asks about them later.
struct Chosen {
  std::vector<ModuleInfo> quantized;
  std::vector<std::string> kept;
};

// The scheme of a matrix that `recipe` may quantize, null when it keeps it.
absl::StatusOr<const Scheme*> ChooseScheme(const ModelSource& source, const Recipe& recipe,
                                           const SourceParameter& parameter, Chosen& chosen) {
  ModuleInfo module = MakeModuleInfo(parameter, source.config());
  module.has_bias = HasBias(source, parameter.name);
  const Scheme* scheme = recipe.SchemeFor(module, source.config());
  if (scheme == nullptr) return nullptr;
  if (absl::Status status = scheme->CheckShape(module.rows, module.cols); !status.ok()) {
    return Refuse(module, status);
  }
  if (module.layer < 0 && scheme->Needs().required()) {
    return Refuse(
        module,
        absl::InvalidArgumentError(
            "only matrices of the blocks can be fitted to their inputs; keep this one by the "
            "recipe's skip list"));
  }
  chosen.quantized.push_back(std::move(module));
  return scheme;
}

absl::StatusOr<Chosen> PlanParameters(const ModelSource& source, const Recipe* recipe,
                                      std::optional<DType> dtype, JobPlan& plan) {
  Chosen chosen;
  for (const SourceParameter& parameter : source.parameters()) {
    PlannedParameter planned{.source = parameter,
                             .kept_dtype = KeptDType(parameter, source, dtype),
                             .layer = LayerOf(parameter)};
    if (recipe != nullptr && IsWeightMatrix(parameter)) {
      ASSIGN_OR_RETURN(planned.scheme, ChooseScheme(source, *recipe, parameter, chosen));
    }
    if (planned.scheme == nullptr) chosen.kept.push_back(parameter.name);
    plan.parameters.push_back(std::move(planned));
  }
  if (recipe != nullptr && chosen.quantized.empty()) {
    return absl::InvalidArgumentError(
        "the recipe leaves every matrix as it is: check its targets and skip lists");
  }
  if (recipe != nullptr && recipe->calibration()) {
    // Block by block, after everything else.
    std::stable_sort(
        plan.parameters.begin(), plan.parameters.end(),
        [](const PlannedParameter& a, const PlannedParameter& b) { return a.layer < b.layer; });
  }
  return chosen;
}

// Biases of quantized modules are kept as upstream keeps them.
void ChooseBiasDTypes(const Codec& codec, const Chosen& chosen, JobPlan& plan) {
  const std::optional<DType> dtype = codec.BiasDType();
  if (!dtype) return;
  std::set<std::string> biases;
  for (const ModuleInfo& module : chosen.quantized) biases.insert(module.name + ".bias");
  for (PlannedParameter& parameter : plan.parameters) {
    if (biases.contains(parameter.source.name)) parameter.kept_dtype = *dtype;
  }
}

// config.json and the files beside it.
absl::Status PlanFiles(const ModelSource& source, const Recipe* recipe, const Chosen& chosen,
                       JobPlan& plan) {
  if (source.gguf_metadata() != nullptr) {
    ASSIGN_OR_RETURN(plan.side_files, SideFilesFromGguf(*source.gguf_metadata(), plan.output));
    plan.output.config_json = plan.side_files["config.json"];
    plan.side_files.erase("config.json");
  } else {
    ASSIGN_OR_RETURN(plan.side_files, source.side_files());
  }
  if (recipe != nullptr) {
    const SideFiles files = recipe->ConfigFiles(chosen.quantized);
    if (files.empty()) {
      plan.quantization_config =
          recipe->QuantizationConfigKeeping(plan.output, chosen.quantized, chosen.kept);
    }
    plan.side_files.insert(files.begin(), files.end());
    const SideFiles extra = recipe->ExtraFiles(plan.output, chosen.quantized);
    plan.side_files.insert(extra.begin(), extra.end());
  }
  ASSIGN_OR_RETURN(plan.config_json, WriteHfConfig(plan.output, plan.quantization_config));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JobPlan> PlanFolderJob(const ModelSource& source, const Recipe* recipe,
                                      std::optional<DType> dtype) {
  JobPlan plan;
  if (recipe != nullptr && recipe->InputDType()) dtype = recipe->InputDType();
  ASSIGN_OR_RETURN(const Chosen chosen, PlanParameters(source, recipe, dtype, plan));
  plan.codec = recipe ? recipe->codec() : nullptr;
  if (plan.codec != nullptr) ChooseBiasDTypes(*plan.codec, chosen, plan);
  plan.output = source.config();
  if (dtype) plan.output.dtype = *dtype;
  RETURN_IF_ERROR(PlanFiles(source, recipe, chosen, plan));
  return plan;
}

absl::StatusOr<JobPlan> PlanGgufJob(const ModelSource& source, const Recipe& recipe,
                                    absl::string_view model_name) {
  JobPlan plan;
  const ModelConfig& config = source.config();
  const GgufTypePolicy& policy = *recipe.gguf_policy();
  for (const SourceParameter& parameter : source.parameters()) {
    PlannedParameter planned{.source = parameter};
    const std::optional<std::string> name = GgufNameFor(config, parameter.name);
    if (!name && IsLeftOutOfGguf(config, parameter.name)) continue;
    if (!name) {
      return absl::UnimplementedError(absl::StrCat(
          "parameter ", parameter.name, " has no place in a GGUF of ", config.architecture));
    }
    planned.gguf_name = *name;
    planned.gguf_type =
        policy.TypeFor(config, *name, parameter.shape, recipe.importance() != nullptr);
    const GgmlTypeInfo* type = FindGgmlType(static_cast<uint32_t>(planned.gguf_type));
    if (type->block_elements > 1) {
      ASSIGN_OR_RETURN(planned.scheme, SchemeForGgmlType(planned.gguf_type));
      planned.inputs = recipe.StatsOf(MakeModuleInfo(parameter, config), config);
      RETURN_IF_ERROR(CheckImportance(policy, recipe, planned));
    } else {
      planned.kept_dtype = planned.gguf_type == GgmlType::kF16    ? DType::kF16
                           : planned.gguf_type == GgmlType::kBF16 ? DType::kBF16
                                                                  : DType::kF32;
    }
    plan.parameters.push_back(std::move(planned));
  }
  std::stable_sort(plan.parameters.begin(), plan.parameters.end(),
                   [](const PlannedParameter& a, const PlannedParameter& b) {
                     return GgufOrder(a) < GgufOrder(b);
                   });
  plan.rope_divisors = RopeDivisorsOf(config);
  ASSIGN_OR_RETURN(plan.metadata, OutputMetadata(source, model_name, policy.file_type()));
  NoteImportance(recipe, plan.metadata);
  return plan;
}

}  // namespace quantd

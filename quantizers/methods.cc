// The registry: every method is one row made by one file in methods/. Nothing registers itself.
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "quantizers/codecs/quantization_config.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

const std::vector<Method>& Table() {
  static const auto* table = new std::vector<Method>{
      BitsAndBytesMethod(),
      CompressedTensorsMethod(),
      FineGrainedFp8Method(),
      FbgemmFp8Method(),
      EetqMethod(),
      TorchAoMethod(),
      QuarkMethod(),
      HiggsMethod(),
      HqqMethod(),
      GptqMethod(),
      QuantoMethod(),
      BitNetMethod(),
      AwqMethod(),
      AutoRoundMethod(),
      SpqrMethod(),
      AqlmMethod(),
      VptqMethod(),
      MetalMethod(),
      FourOverSixMethod(),
      FpQuantMethod(),
      SinqMethod(),
      GgufMethod(),
  };
  return *table;
}

// Spellings that upstream's documentation uses beside the `quant_method` of its config.
absl::string_view Canonical(absl::string_view name) {
  if (name == "finegrained_fp8") return "fp8";
  if (name == "bnb") return "bitsandbytes";
  if (name == "compressed_tensors") return "compressed-tensors";
  if (name == "optimum-quanto") return "quanto";
  if (name == "auto-round" || name == "auto_round" || name == "intel/auto-round") {
    return "autoround";
  }
  return name;
}

absl::Status UnknownMethod(absl::string_view name) {
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown method \"", absl::Utf8SafeCEscape(name.substr(0, 200)), "\"; known methods: ",
      absl::StrJoin(Table(), ", ", [](std::string* out, const Method& method) {
        absl::StrAppend(out, method.name);
      })));
}

}  // namespace

std::unique_ptr<Recipe> Recipe::WithImportance(
    std::shared_ptr<const ImportanceMatrix>) const {  // NOLINT(performance-unnecessary-value-param)
  return nullptr;
}

InputStats Recipe::StatsOf(const ModuleInfo&, const ModelConfig&) const { return {}; }

std::span<const Method> AllMethods() { return Table(); }

absl::StatusOr<const Method*> FindMethod(absl::string_view name) {
  for (const Method& method : Table()) {
    if (method.name == Canonical(name)) return &method;
  }
  return UnknownMethod(name);
}

absl::StatusOr<std::unique_ptr<Recipe>> MakeRecipe(
    const std::string& method, const std::map<std::string, std::string>& options) {
  ASSIGN_OR_RETURN(const Method* row, FindMethod(method));
  auto parsed = Options::Parse(row->options, options);
  if (!parsed.ok()) {
    return absl::Status(parsed.status().code(),
                        absl::StrCat(row->name, ": ", parsed.status().message()));
  }
  return row->make(*parsed);
}

absl::StatusOr<std::unique_ptr<Recipe>> RecipeFromConfig(const std::string& quantization_config) {
  ASSIGN_OR_RETURN(const std::string config, QuantizationConfigIn(quantization_config));
  ASSIGN_OR_RETURN(const std::string name, QuantMethodOf(config));
  ASSIGN_OR_RETURN(const Method* row, FindMethod(name));
  if (row->from_config == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("quant_method \"", name, "\" has no quantization_config; use its options"));
  }
  return row->from_config(config);
}

}  // namespace quantd

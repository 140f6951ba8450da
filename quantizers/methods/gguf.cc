// gguf: the file types of llama-quantize.
#include <memory>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/method.h"

namespace quantd {
namespace {

class GgufRecipe final : public Recipe {
 public:
  GgufRecipe(GgufTypePolicy policy, std::string importance_file, std::string importance_output)
      : policy_(std::move(policy)),
        importance_file_(std::move(importance_file)),
        importance_output_(std::move(importance_output)) {}

  absl::string_view method() const override { return "gguf"; }

  const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig& config) const override {
    const std::optional<std::string> name =
        GgufNameFor(config, absl::StrCat(module.name, ".weight"));
    if (!name) return nullptr;
    const GgmlType type =
        policy_.TypeFor(config, *name, {module.rows, module.cols}, importance_ != nullptr);
    const absl::StatusOr<const Scheme*> scheme = SchemeForGgmlType(type);
    return scheme.ok() ? *scheme : nullptr;  // plain types have none
  }

  const Codec* codec() const override { return nullptr; }
  const GgufTypePolicy* gguf_policy() const override { return &policy_; }
  std::string QuantizationConfig(const ModelConfig&) const override { return ""; }

  std::string importance_file() const override { return importance_file_; }
  std::string importance_output() const override { return importance_output_; }
  const ImportanceMatrix* importance() const override { return importance_.get(); }
  std::unique_ptr<Recipe> WithImportance(
      std::shared_ptr<const ImportanceMatrix> importance) const override {
    auto recipe = std::make_unique<GgufRecipe>(policy_, importance_file_, importance_output_);
    recipe->importance_ = std::move(importance);
    return recipe;
  }
  InputStats StatsOf(const ModuleInfo& module, const ModelConfig& config) const override {
    const auto name = GgufNameFor(config, absl::StrCat(module.name, ".weight"));
    if (!name || importance_ == nullptr) return {};
    return {.importance = importance_->Find(*name)};
  }

 private:
  GgufTypePolicy policy_;
  std::string importance_file_;
  std::string importance_output_;
  std::shared_ptr<const ImportanceMatrix> importance_;
};

// The file type that --bits stands for.
absl::string_view FileTypeOfBits(int64_t bits) {
  switch (bits) {
    case 2:
      return "Q2_K";
    case 3:
      return "Q3_K_M";
    case 5:
      return "Q5_K_M";
    case 6:
      return "Q6_K";
    case 8:
      return "Q8_0";
    default:
      return "Q4_K_M";
  }
}

GgmlType TensorType(const Options& options, absl::string_view option) {
  const GgmlTypeInfo* info = FindGgmlType(absl::string_view(options.String(option)));
  return info->type;  // one of the allowed values
}

absl::StatusOr<std::unique_ptr<Recipe>> FromOptions(const Options& options) {
  std::string type = options.String("type");
  if (options.IsSet("bits")) {
    const absl::string_view of_bits = FileTypeOfBits(options.Int("bits"));
    if (options.IsSet("type") && !absl::EqualsIgnoreCase(type, of_bits)) {
      return absl::InvalidArgumentError(absl::StrCat("gguf: bits ", options.Int("bits"), " means ",
                                                     of_bits, " and contradicts type ", type,
                                                     "; set one of them"));
    }
    type = std::string(of_bits);
  }
  ASSIGN_OR_RETURN(GgufTypePolicy policy, GgufTypePolicy::ForFileType(type, options.Bool("pure")));
  if (options.IsSet("output_tensor_type")) {
    policy.set_output_tensor_type(TensorType(options, "output_tensor_type"));
  }
  if (options.IsSet("token_embedding_type")) {
    policy.set_token_embedding_type(TensorType(options, "token_embedding_type"));
  }
  const std::string& output = options.String("save_imatrix");
  if (!output.empty()) {
    RETURN_IF_ERROR(CheckModelName(output));
    if (!absl::EndsWith(output, ".gguf") && !absl::EndsWith(output, ".dat")) {
      return absl::InvalidArgumentError(
          absl::StrCat("gguf: save_imatrix ", output, " must end in .gguf or .dat"));
    }
  }
  return std::make_unique<GgufRecipe>(std::move(policy), options.String("imatrix"), output);
}

std::vector<std::string> AllowedFileTypes() {
  std::vector<std::string> names = GgufTypePolicy::KnownFileTypes();
  names.insert(names.end(), {"Q3_K", "Q4_K", "Q5_K"});
  return names;
}

// Types that a single tensor may be given.
std::vector<std::string> AllowedTensorTypes() {
  std::vector<std::string> names = {"F32", "F16", "BF16"};
  for (uint32_t id = 0; id < 64; ++id) {
    const GgmlTypeInfo* info = FindGgmlType(id);
    if (info != nullptr && SchemeForGgmlType(info->type).ok()) names.emplace_back(info->name);
  }
  return names;
}

}  // namespace

Method GgufMethod() {
  using Type = OptionSpec::Type;
  Method method;
  method.name = "gguf";
  method.summary =
      "llama.cpp block types: K-quants, legacy, IQ, ternary and FP4, as one .gguf file";
  method.bits = "1-8";
  method.takes_calibration = true;
  method.upstream = "llama.cpp (ggml 0.25.3); transformers 5.23 with gguf 0.19";
  method.options = {
      {"type", Type::kString, "Q4_K_M", "file type, a mixture of block types", AllowedFileTypes()},
      {"bits",
       Type::kInt,
       "",
       "short for a type: 2 Q2_K, 3 Q3_K_M, 4 Q4_K_M, 5 Q5_K_M, 6 Q6_K, 8 Q8_0",
       {"2", "3", "4", "5", "6", "8"}},
      {"pure", Type::kBool, "false", "one block type for every matrix instead of a mixture", {}},
      {"output_tensor_type", Type::kString, "", "type of the output matrix", AllowedTensorTypes()},
      {"token_embedding_type", Type::kString, "", "type of the embedding table",
       AllowedTensorTypes()},
      {"imatrix",
       Type::kString,
       "",
       "importance matrix of llama-imatrix, a .gguf or .dat file in the model root",
       {}},
      {"save_imatrix",
       Type::kString,
       "",
       "write the importance matrix that a calibration text gave to this .gguf or .dat file",
       {}},
  };
  method.bits_option = "bits";
  method.make = FromOptions;
  return method;
}

}  // namespace quantd

// A method is a row of one table: capabilities, options, and a function that makes a recipe of
// them. ListMethods, the README's table and the tests are made from the same rows.
#ifndef QUANTD_QUANTIZERS_METHOD_H_
#define QUANTD_QUANTIZERS_METHOD_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "formats/model_config.h"
#include "quantizers/calibration.h"
#include "quantizers/codecs/codec.h"
#include "quantizers/options.h"
#include "quantizers/scheme.h"

namespace quantd {

class GgufTypePolicy;
class ImportanceMatrix;

// A weight matrix of the model as the recipe sees it.
struct ModuleInfo {
  std::string name;                  // Hugging Face module path, "model.layers.0.self_attn.q_proj"
  bool is_linear = true;             // nn.Linear; false for embedding tables
  bool is_output_embedding = false;  // lm_head
  bool is_tied = false;              // shares its tensor with another module
  bool is_last = false;              // the module of the last parameter
  int64_t rows = 0;
  int64_t cols = 0;
  int layer = -1;         // index of the decoder/encoder block, -1 outside
  bool has_bias = false;  // set where a job's modules are listed
};

// A method with its options fixed, ready to work on a model. Immutable.
class Recipe {
 public:
  virtual ~Recipe() = default;
  virtual absl::string_view method() const = 0;

  // The scheme of a module, or nullptr to keep it as it is (ignore lists with upstream's defaults).
  virtual const Scheme* SchemeFor(const ModuleInfo& module, const ModelConfig& config) const = 0;
  // The dtype that upstream loads the whole model in, where it fixes one (LLM.int8: float16):
  // source matrices are converted to it before Quantize, kept floating point parameters are written
  // in it.
  virtual std::optional<DType> InputDType() const { return std::nullopt; }

  // How the result is spelled in a Hugging Face checkpoint; nullptr for GGUF recipes.
  virtual const Codec* codec() const = 0;
  // Which block type each tensor of a GGUF takes; nullptr for recipes with a codec.
  virtual const GgufTypePolicy* gguf_policy() const { return nullptr; }
  // File in the model root that holds the importance matrix; "" when the options name none.
  virtual std::string importance_file() const { return ""; }
  // File in the model root that a measured importance matrix is written to; "": none.
  virtual std::string importance_output() const { return ""; }
  virtual const ImportanceMatrix* importance() const { return nullptr; }
  // The same recipe with an importance matrix in hand; null for recipes that use none.
  virtual std::unique_ptr<Recipe> WithImportance(
      std::shared_ptr<const ImportanceMatrix> importance) const;
  // What the schemes of a module may know of its inputs.
  virtual InputStats StatsOf(const ModuleInfo& module, const ModelConfig& config) const;
  // How the model is calibrated, for recipes with schemes that need inputs or a block solver.
  virtual std::optional<CalibrationSpec> calibration() const { return std::nullopt; }
  // Not null: it quantizes the linears of a block together, in place of their schemes.
  virtual const BlockSolver* block_solver() const { return nullptr; }
  // Not null: it goes over the linears of a block after their schemes.
  virtual const BlockTuner* block_tuner() const { return nullptr; }
  // JSON text of config.json's quantization_config as upstream writes it ("" for GGUF).
  virtual std::string QuantizationConfig(const ModelConfig& config) const = 0;
  // The same for a checkpoint in which exactly `modules` are quantized, where upstream lists them.
  virtual std::string QuantizationConfigFor(const ModelConfig& config,
                                            const std::vector<ModuleInfo>& /*modules*/) const {
    return QuantizationConfig(config);
  }
  // The same where upstream lists what is left, full names of parameters.
  virtual std::string QuantizationConfigKeeping(const ModelConfig& config,
                                                const std::vector<ModuleInfo>& modules,
                                                const std::vector<std::string>& /*kept*/) const {
    return QuantizationConfigFor(config, modules);
  }
  // Files that say what is quantized in place of config.json's quantization_config, name to text,
  // for a checkpoint in which exactly `modules` are; none for most ecosystems.
  virtual std::map<std::string, std::string> ConfigFiles(
      const std::vector<ModuleInfo>& /*modules*/) const {
    return {};
  }
  // Files that upstream wants beside config.json, name to text, for the same checkpoint.
  virtual std::map<std::string, std::string> ExtraFiles(
      const ModelConfig& /*config*/, const std::vector<ModuleInfo>& /*modules*/) const {
    return {};
  }
};

struct Method {
  std::string name;  // "bitsandbytes", "compressed-tensors", "fp8", "gguf"
  std::string summary;
  std::string bits;  // "4, 8", "2-8"
  bool needs_calibration = false;
  bool takes_calibration = false;  // not needed, but some options ask for it or gain by it
  bool on_the_fly = true;          // load --quantize
  bool serializable = true;
  bool lora = false;  // adapters can be used on top at inference
  bool cpu = true;
  bool opencl = true;    // packed kernels (else it runs there dense)
  std::string upstream;  // library that loads the result, with the version checked
  std::vector<OptionSpec> options;
  // `bits_option`, `group_size_option`: what --bits and --group-size set; "" when there is none.
  std::string bits_option;
  std::string group_size_option;

  absl::StatusOr<std::unique_ptr<Recipe>> (*make)(const Options& options) = nullptr;
  // From an upstream quantization_config (JSON text), unchanged. Null for methods without one.
  absl::StatusOr<std::unique_ptr<Recipe>> (*from_config)(const std::string& json) = nullptr;
};

std::span<const Method> AllMethods();
// INVALID_ARGUMENT listing the known names.
absl::StatusOr<const Method*> FindMethod(absl::string_view name);
// Checks the options and makes the recipe: all INVALID_ARGUMENT errors of a request come from here.
absl::StatusOr<std::unique_ptr<Recipe>> MakeRecipe(
    const std::string& method, const std::map<std::string, std::string>& options);
absl::StatusOr<std::unique_ptr<Recipe>> RecipeFromConfig(const std::string& quantization_config);

// Rows of the table; one function per file in methods/.
Method GgufMethod();
Method BitsAndBytesMethod();
Method CompressedTensorsMethod();
Method FineGrainedFp8Method();
Method FbgemmFp8Method();
Method EetqMethod();
Method TorchAoMethod();
Method QuarkMethod();
Method HiggsMethod();
Method HqqMethod();
Method GptqMethod();
Method QuantoMethod();
Method BitNetMethod();
Method AwqMethod();
Method AutoRoundMethod();
Method SpqrMethod();
Method AqlmMethod();
Method VptqMethod();
Method MetalMethod();
Method FourOverSixMethod();
Method FpQuantMethod();
Method SinqMethod();

// Transformers' rule for skip lists: a pattern matches as a regex anchored at the start that ends
// at a dot boundary, or as a suffix of the module name
// (quantizers_utils.should_convert_module, 5.23).
bool MatchesSkipPattern(absl::string_view module, absl::string_view pattern);
// Automatic skip list of Transformers: output embedding, tied weights, module of the last
// parameter.
bool IsSkippedByDefault(const ModuleInfo& module);
// Whether Transformers leaves the module alone: by `patterns` when given, else by the automatic
// list.
bool IsSkipped(const ModuleInfo& module, const std::optional<std::vector<std::string>>& patterns);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_METHOD_H_

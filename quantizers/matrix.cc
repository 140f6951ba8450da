// The tensor-level door: one matrix in, the tensors of one upstream Linear out, and back.
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/gguf/blocks.h"
#include "quantizers/codecs/gguf/importance_matrix.h"
#include "quantizers/codecs/gguf/matrix_config.h"
#include "quantizers/codecs/gguf/model_mapping.h"
#include "quantizers/input_statistics.h"
#include "quantizers/pipeline.h"
#include "quantizers/plain_weight.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

// A matrix on its own counts as an ordinary linear layer in the middle of a decoder.
constexpr absl::string_view kModule = "model.layers.0.mlp.up_proj";
constexpr absl::string_view kGgufName = "blk.0.ffn_up.weight";
constexpr int64_t kMaxLayers = 1 << 20;

ModelConfig AnonymousModel(DType dtype) {
  ModelConfig config;
  config.architecture = "LlamaForCausalLM";
  config.model_type = "llama";
  config.dtype = dtype;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 1;
  config.num_key_value_heads = 1;
  return config;
}

ModuleInfo ModuleOf(const Shape& shape) {
  ModuleInfo module;
  module.name = std::string(kModule);
  module.rows = shape[0];
  module.cols = shape[1];
  module.layer = 0;
  return module;
}

// Tensors handed over in a request, as a codec wants to see them.
class RequestModule final : public ModuleTensors {
 public:
  explicit RequestModule(const std::vector<NamedTensor>& tensors) : tensors_(tensors) {}
  const std::string& module() const override { return module_; }
  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    for (const NamedTensor& named : tensors_) names.push_back(named.name);
    return names;
  }
  bool Has(absl::string_view name) const override { return Find(name) != nullptr; }
  absl::StatusOr<TensorView> Describe(absl::string_view name) const override {
    const Tensor* tensor = Find(name);
    if (tensor == nullptr) return Missing(name);
    return TensorView{tensor->dtype, tensor->shape, {}};
  }
  absl::StatusOr<Tensor> Read(absl::string_view name) const override {
    const Tensor* tensor = Find(name);
    if (tensor == nullptr) return Missing(name);
    return *tensor;
  }

 private:
  static absl::Status Missing(absl::string_view name) {
    return absl::InvalidArgumentError(absl::StrCat("the request has no tensor ", name));
  }
  const Tensor* Find(absl::string_view name) const {
    for (const NamedTensor& named : tensors_) {
      if (named.name == name) return &named.tensor;
    }
    return nullptr;
  }

  const std::vector<NamedTensor>& tensors_;
  std::string module_ = std::string(kModule);
};

absl::StatusOr<Weight> DecodeMatrix(const std::vector<NamedTensor>& tensors,
                                    const std::string& quantization_config) {
  const RequestModule module(tensors);
  ASSIGN_OR_RETURN(const auto gguf, ParseGgufMatrixConfig(quantization_config));
  if (gguf) {
    ASSIGN_OR_RETURN(const Tensor blocks, module.Read("blocks"));
    return DecodeGgufBlocks(gguf->type, gguf->shape, blocks.bytes);
  }
  ModelConfig config = AnonymousModel(DType::kF32);
  config.quantization_config = quantization_config;
  ASSIGN_OR_RETURN(const std::unique_ptr<Codec> codec, CodecFor(config));
  if (!codec->IsQuantized(module)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tensors do not form a weight quantized with ", codec->quant_method()));
  }
  ASSIGN_OR_RETURN(QuantizedTensor quantized, codec->Decode(module));
  RETURN_IF_ERROR(Validate(quantized));
  return quantized;
}

// The scheme of a block type; null for types of single elements.
absl::StatusOr<const Scheme*> GgufScheme(GgmlType type) {
  if (FindGgmlType(static_cast<uint32_t>(type))->block_elements <= 1) return nullptr;
  return SchemeForGgmlType(type);
}

absl::StatusOr<std::vector<NamedTensor>> GgufTensors(GgmlType type,
                                                     const QuantizedTensor& quantized) {
  ASSIGN_OR_RETURN(std::vector<std::byte> blocks, EncodeGgufBlocks(type, quantized));
  const int64_t row_bytes = static_cast<int64_t>(blocks.size()) / quantized.rows;
  return std::vector<NamedTensor>{
      {"blocks", Tensor{DType::kU8, {quantized.rows, row_bytes}, std::move(blocks)}}};
}

absl::Status CheckWeight(const TensorView& weight) {
  if (weight.shape.size() == 2 && InfoOf(weight.dtype).is_float) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("`weight` must be a float matrix [out, in], found ",
                   InfoOf(weight.dtype).safetensors_name, " ", ToString(weight.shape)));
}

// What the scheme wants of the layer's inputs, unless the recipe knows it.
absl::StatusOr<std::optional<InputStatistics>> StatisticsFor(const Recipe& recipe,
                                                             const Scheme& scheme,
                                                             const TensorView* calibration,
                                                             int64_t cols) {
  if (recipe.importance() != nullptr) return std::nullopt;
  const InputNeeds needs = scheme.Needs();
  if (calibration == nullptr && needs.required()) {
    return absl::InvalidArgumentError(absl::StrCat(
        scheme.Describe(),
        " is fitted to inputs of the layer: send them as a second tensor, `calibration` [tokens, ",
        cols, "]",
        recipe.gguf_policy() ? ", or set imatrix to a file of llama-imatrix in the model root"
                             : ""));
  }
  if (calibration == nullptr || !needs.any()) return std::nullopt;
  absl::StatusOr<InputStatistics> statistics = StatisticsOf(*calibration, cols, needs);
  if (!statistics.ok()) {
    return absl::Status(statistics.status().code(),
                        absl::StrCat("`calibration`: ", statistics.status().message()));
  }
  return *std::move(statistics);
}

// The entry of the recipe's importance matrix for one matrix of `cols` columns.
absl::StatusOr<std::span<const float>> ImportanceFor(const Recipe& recipe, absl::string_view name,
                                                     ModelConfig config, int64_t cols) {
  const ImportanceMatrix& matrix = *recipe.importance();
  if (name.empty()) {
    return absl::InvalidArgumentError(
        "imatrix: the request must name the tensor whose entry is meant, \"blk.3.ffn_up.weight\"");
  }
  std::span<const float> found = matrix.Find(name);
  if (found.empty()) {
    config.num_hidden_layers = kMaxLayers;  // how many there are is not known here
    found = matrix.Find(GgufNameFor(config, name).value_or(""));
  }
  if (found.empty()) {
    return absl::NotFoundError(absl::StrCat("the importance matrix ", recipe.importance_file(),
                                            " has no entry for ", name, " among its ",
                                            matrix.entries().size()));
  }
  if (static_cast<int64_t>(found.size()) != cols) {
    return absl::InvalidArgumentError(
        absl::StrCat("the importance matrix ", recipe.importance_file(), " has ", found.size(),
                     " columns for ", name, ", expected ", cols, "; is it another model's?"));
  }
  return found;
}

absl::StatusOr<QuantizedMatrix> Spelled(const Recipe& recipe, const ModelConfig& config,
                                        const ModuleInfo& module,
                                        const QuantizedTensor& quantized) {
  QuantizedMatrix result;
  ASSIGN_OR_RETURN(result.tensors, recipe.codec()->Encode(quantized));
  std::map<std::string, Shape> stored;
  for (const NamedTensor& named : result.tensors) {
    stored[absl::StrCat(module.name, ".", named.name)] = named.tensor.shape;
  }
  ASSIGN_OR_RETURN(
      result.quantization_config,
      recipe.codec()->ConfigOfStored(recipe.QuantizationConfigFor(config, {module}), stored));
  return result;
}

}  // namespace

absl::StatusOr<QuantizedMatrix> QuantizeMatrix(const TensorView& weight,
                                               const TensorView* calibration, const Recipe& recipe,
                                               std::function<bool()> stopped,
                                               absl::string_view name) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const ModelConfig config = AnonymousModel(weight.dtype);
  const ModuleInfo module = ModuleOf(weight.shape);
  const bool gguf = recipe.gguf_policy() != nullptr;
  const bool has_importance = recipe.importance() != nullptr;
  if (has_importance && calibration != nullptr) {
    return absl::InvalidArgumentError(
        "the tensor `calibration` and the option imatrix exclude each other");
  }
  const Scheme* scheme = recipe.SchemeFor(module, config);
  GgmlType type = GgmlType::kF32;
  if (gguf) {
    // The mix of types may be another one where an importance is known.
    type = recipe.gguf_policy()->TypeFor(config, kGgufName, weight.shape,
                                         has_importance || calibration != nullptr);
    ASSIGN_OR_RETURN(scheme, GgufScheme(type));
  }
  if (scheme == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("the recipe leaves a linear layer of shape ",
                                                   ToString(weight.shape), " as it is"));
  }
  RETURN_IF_ERROR(scheme->CheckShape(module.rows, module.cols));
  RETURN_IF_ERROR(CheckFinite("weight", weight));
  const DType dtype = gguf ? DType::kF32 : recipe.InputDType().value_or(weight.dtype);
  const Tensor converted =
      dtype == weight.dtype
          ? Tensor{weight.dtype, weight.shape, {weight.bytes.begin(), weight.bytes.end()}}
          : ConvertTensor(weight, dtype);
  SolverControl control{.stopped = std::move(stopped), .warnings = {}};
  ASSIGN_OR_RETURN(const auto statistics, StatisticsFor(recipe, *scheme, calibration, module.cols));
  InputStats stats = statistics ? statistics->View(&control) : InputStats{.control = &control};
  if (has_importance) {
    ASSIGN_OR_RETURN(stats.importance, ImportanceFor(recipe, name, config, module.cols));
  }
  ASSIGN_OR_RETURN(const QuantizedTensor quantized, scheme->Quantize(converted, &stats));
  QuantizedMatrix result;
  if (gguf) {
    ASSIGN_OR_RETURN(result.tensors, GgufTensors(type, quantized));
    result.quantization_config = WriteGgufMatrixConfig({type, weight.shape});
  } else {
    ASSIGN_OR_RETURN(result, Spelled(recipe, config, module, quantized));
  }
  result.warnings = std::move(control.warnings);
  return result;
}

absl::StatusOr<Tensor> DequantizeMatrix(const std::vector<NamedTensor>& tensors,
                                        const std::string& quantization_config,
                                        std::optional<DType> dtype) {
  ASSIGN_OR_RETURN(Weight weight, DecodeMatrix(tensors, quantization_config));
  if (!dtype) {
    const auto* quantized = std::get_if<QuantizedTensor>(&weight);
    dtype = quantized ? quantized->dequantized_dtype : std::get<Tensor>(weight).dtype;
  }
  return ToPlain(std::move(weight), *dtype);
}

}  // namespace quantd

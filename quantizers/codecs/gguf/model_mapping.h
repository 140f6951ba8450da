// Between the Hugging Face and the GGUF spelling of a model: parameter names, the row permutation
// of q and k, metadata and tokenizer. Source: convert_hf_to_gguf.py of llama.cpp (ggml 0.25.3).
#ifndef QUANTD_QUANTIZERS_CODECS_GGUF_MODEL_MAPPING_H_
#define QUANTD_QUANTIZERS_CODECS_GGUF_MODEL_MAPPING_H_

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf/gguf.h"
#include "formats/model_config.h"
#include "kernels/backend.h"

namespace quantd {

// Tensors of what divides rotary frequencies, which Hugging Face has in the config.
inline constexpr absl::string_view kRopeFrequencies = "rope_freqs.weight";
inline constexpr absl::string_view kRopeLongFactors = "rope_factors_long.weight";
inline constexpr absl::string_view kRopeShortFactors = "rope_factors_short.weight";

// "model.layers.3.self_attn.q_proj.weight" <-> "blk.3.attn_q.weight"; nullopt for names the
// architecture does not have.
std::optional<std::string> GgufNameFor(const ModelConfig& config, absl::string_view hf_name);
std::optional<std::string> HfNameFor(const ModelConfig& config, absl::string_view gguf_name);

// Whether the converter drops the parameter: buffers that follow from the config, and the pooler of
// a BertModel, which embeddings do not use.
bool IsLeftOutOfGguf(const ModelConfig& config, absl::string_view hf_name);

// Row orders of a permuted parameter (llama and mistral q, k), or empty when its rows keep their
// order. Row i of the GGUF tensor is row order[i] of the Hugging Face tensor, and the reverse for
// ToHf.
std::vector<int64_t> RowOrderToGguf(const ModelConfig& config, absl::string_view hf_name);
std::vector<int64_t> RowOrderToHf(const ModelConfig& config, absl::string_view hf_name);
// `weight` with its rows in `order` (plain or quantized).
absl::StatusOr<Weight> PermuteRows(Weight weight, const std::vector<int64_t>& order);

// The model that GGUF metadata describe; missing or absurd keys are INVALID_ARGUMENT naming the
// key, checked against the tensors' shapes.
absl::StatusOr<ModelConfig> ConfigFromGguf(const GgufHeader& header);

// Metadata of a GGUF for a Hugging Face model, in the upstream converter's order; the tokenizer
// comes from tokenizer.json and tokenizer_config.json among `side_files`.
absl::StatusOr<GgufMetadata> MetadataForModel(const ModelConfig& config,
                                              const std::map<std::string, std::string>& side_files,
                                              absl::string_view model_name, uint32_t file_type);

// config.json, generation_config.json, tokenizer.json, tokenizer_config.json,
// special_tokens_map.json for a model that comes from a GGUF.
absl::StatusOr<std::map<std::string, std::string>> SideFilesFromGguf(const GgufMetadata& metadata,
                                                                     const ModelConfig& config);

// Chooses each tensor's type as llama_model_quantize does for a file type ("Q4_K_M", "Q8_0", ...).
class GgufTypePolicy {
 public:
  // INVALID_ARGUMENT listing the known names. `pure`: one type for every matrix.
  static absl::StatusOr<GgufTypePolicy> ForFileType(absl::string_view file_type, bool pure);
  // Types of output.weight (a tied token_embd.weight too) and token_embd.weight instead of the
  // mixture's, as llama-quantize's options of these names.
  void set_output_tensor_type(GgmlType type) { output_tensor_type_ = type; }
  void set_token_embedding_type(GgmlType type) { token_embedding_type_ = type; }
  uint32_t file_type() const { return file_type_; }  // general.file_type
  absl::string_view name() const { return name_; }
  // Type of the tensor `gguf_name` [rows, cols] in `config`. Rows that are no whole number of
  // blocks get the next type that fits, in the end F16.
  GgmlType TypeFor(const ModelConfig& config, absl::string_view gguf_name, const Shape& shape,
                   bool has_importance) const;
  // Whether a tensor of this type would be worth nothing without an importance matrix
  // (tensor_requires_imatrix in llama-quant.cpp), or cannot be made at all.
  bool NeedsImportance(absl::string_view gguf_name, GgmlType type) const;
  static std::vector<std::string> KnownFileTypes();

 private:
  uint32_t file_type_ = 0;
  std::string name_;
  GgmlType base_ = GgmlType::kF16;
  bool pure_ = false;
  std::optional<GgmlType> output_tensor_type_;
  std::optional<GgmlType> token_embedding_type_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_CODECS_GGUF_MODEL_MAPPING_H_

// A model's parameters under their Hugging Face names, whatever container and codec hold them.
// Models load from it and the pipeline quantizes from it.
#ifndef QUANTD_QUANTIZERS_MODEL_SOURCE_H_
#define QUANTD_QUANTIZERS_MODEL_SOURCE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/shared_tensor.h"
#include "formats/gguf/gguf.h"
#include "formats/model_config.h"
#include "formats/model_root.h"
#include "kernels/backend.h"
#include "quantizers/codecs/codec.h"

namespace quantd {

struct SourceParameter {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight", "model.norm.weight"
  Shape shape;       // logical: [out, in] for a matrix, packed or not
  bool is_quantized = false;
  std::string stored_as;  // "BF16", "Q4_K", "nf4 block 64", ...
  uint64_t stored_bytes = 0;
};

// Small files that travel with a checkpoint (tokenizer.json, ...), name to content.
using SideFiles = std::map<std::string, std::string>;

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  // In the container's order. Every matrix and vector once; tied ones only under the embedding's
  // name.
  virtual const std::vector<SourceParameter>& parameters() const = 0;
  virtual bool Has(absl::string_view name) const = 0;
  // The parameter as stored: a QuantizedTensor if a codec holds it, else a plain tensor. GGUF's
  // permuted q and k rows are put back into Hugging Face order. NOT_FOUND names it.
  virtual absl::StatusOr<Weight> Read(absl::string_view name) const = 0;
  // What Read gives, without a copy: where it lies in a mapped file. nullopt when it does not lie
  // anywhere as it is (quantized, permuted).
  virtual std::optional<SharedTensor> Lend(absl::string_view) const { return std::nullopt; }
  // "gguf Q4_1", "bitsandbytes", "none"; for reports.
  virtual std::string quantization() const = 0;
  // Files carried along; a GGUF's tokenizer is in `gguf_metadata` instead.
  virtual absl::StatusOr<SideFiles> side_files() const = 0;
  virtual const GgufMetadata* gguf_metadata() const { return nullptr; }
  virtual uint64_t stored_bytes() const = 0;
};

// Opens the model `name` of the root: a Hugging Face folder, a folder with one .gguf, or a .gguf
// file. All headers, configs and shapes are checked here; tensors are read later.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenModelSource(std::shared_ptr<const ModelRoot> root,
                                                             absl::string_view name);
// The two halves, for tests and tools.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenCheckpointFolder(
    std::shared_ptr<const Directory> folder);
// `parts`: one file, or all of a split model in order.
absl::StatusOr<std::unique_ptr<ModelSource>> OpenGgufModel(
    std::vector<std::shared_ptr<const File>> parts);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_MODEL_SOURCE_H_

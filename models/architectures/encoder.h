// Text encoders of the BERT family: summed embeddings, post-norm layers of bidirectional attention
// and a GELU MLP; sentence embeddings by pooling. Written once against Backend.
#ifndef QUANTD_MODELS_ARCHITECTURES_ENCODER_H_
#define QUANTD_MODELS_ARCHITECTURES_ENCODER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "formats/model_config.h"
#include "kernels/backend.h"
#include "models/architectures/packed_bytes.h"
#include "models/linear.h"
#include "models/parameters.h"
#include "quantizers/model_source.h"

namespace quantd {

// What an encoder reads of a checkpoint of `config` (with or without the leading "bert.").
// UNIMPLEMENTED naming an activation or pooling that it does not compute.
absl::StatusOr<ParameterList> EncoderParameters(const ModelConfig& config,
                                                const ModelSource& source);

// What the names of a block's parameters begin with: "encoder.layer.3.".
std::string EncoderBlockPrefix(const ModelSource& source, int64_t block);

class Encoder {
 public:
  struct Options {
    Compute compute = Compute::kFast;
    bool round_inputs = false;          // PackOptions
    int32_t max_batch_tokens = 0;       // rows of the workspace, at least the longest sequence
    InputObserver* observer = nullptr;  // sees the inputs of the layers' matrices
    std::function<absl::Status(int64_t done, int64_t total)> on_progress;  // may cancel
  };

  // CheckParameters has passed. Reads and packs matrix by matrix.
  static absl::StatusOr<std::unique_ptr<Encoder>> Load(const ModelSource& source, Backend& backend,
                                                       const Options& options);

  // The last hidden states of `sequences`, which tile the rows of `ids` in order and have no cache,
  // into `out` [ids.size(), hidden]. At most max_batch_tokens rows. Waits.
  absl::Status Forward(std::span<const int32_t> ids, std::span<const SequenceRows> sequences,
                       std::span<float> out);

  const PackedBytes& packed_bytes() const { return packed_bytes_; }
  uint64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  struct LayerNorm {
    std::unique_ptr<DeviceArray> weight, bias;
  };
  struct Layer {
    Linear qkv, output, up, down;
    LayerNorm attention_norm, output_norm;
  };

  Encoder(const ModelConfig& config, Backend& backend, const Options& options);
  absl::Status LoadWeights(const ModelSource& source);
  absl::Status LoadEmbeddings(const ModelSource& source, const std::string& prefix);
  absl::StatusOr<Layer> LoadLayer(const ModelSource& source, const std::string& prefix);
  absl::StatusOr<LayerNorm> LoadNorm(const ModelSource& source, const std::string& module);
  absl::Status AllocateWorkspace();
  absl::Status Embed(std::span<const int32_t> ids, std::span<const SequenceRows> sequences);
  absl::Status RunLayer(const Layer& layer, int64_t tokens,
                        std::span<const SequenceRows> sequences);
  Norm NormOf(const LayerNorm& norm) const;

  const ModelConfig config_;
  Backend& backend_;
  const Options options_;
  const Activation activation_;
  PackedBytes packed_bytes_;
  bool rounds_inputs_ = false;
  uint64_t workspace_bytes_ = 0;

  Linear words_;
  std::unique_ptr<PackedWeight> positions_;  // with token type 0 added
  LayerNorm embedding_norm_;
  std::vector<Layer> layers_;
  std::unique_ptr<DeviceArray> hidden_, qkv_, attention_, mlp_;
};

// One sentence's vector from its hidden states [tokens, hidden] by `config.pooling` ("mean", "cls"
// or "max"), divided by its length if `normalize`.
std::vector<float> PoolSentence(const ModelConfig& config, std::span<const float> hidden_states,
                                bool normalize);

}  // namespace quantd

#endif  // QUANTD_MODELS_ARCHITECTURES_ENCODER_H_

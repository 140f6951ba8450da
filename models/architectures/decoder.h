// Causal language models of the Llama family: Llama, Mistral, Qwen2, Qwen3, Phi3. Pre-norm layers
// of RMS norm, grouped-query attention with rotary positions, and a gated SiLU MLP. Written once
// against Backend. Whether q, k and v (gate and up) are one matrix in the checkpoint or several is
// known here and nowhere behind: they are packed as one.
#ifndef QUANTD_MODELS_ARCHITECTURES_DECODER_H_
#define QUANTD_MODELS_ARCHITECTURES_DECODER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
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

// What a decoder reads of a checkpoint of `config`, named as `source` names it (with or without the
// leading "model."). UNIMPLEMENTED naming an activation that it does not compute.
absl::StatusOr<ParameterList> DecoderParameters(const ModelConfig& config,
                                                const ModelSource& source);

// What the names of a block's parameters begin with: "model.layers.3.".
std::string DecoderBlockPrefix(const ModelSource& source, int64_t block);

class Decoder {
 public:
  struct Options {
    Compute compute = Compute::kFast;
    bool round_inputs = false;          // PackOptions
    int32_t context_length = 0;         // positions of the rotary table
    int32_t max_batch_tokens = 0;       // rows of the workspace
    int32_t max_logit_rows = 0;         // rows that one call of Logits gives
    InputObserver* observer = nullptr;  // sees the inputs of the layers' matrices
    std::function<absl::Status(int64_t done, int64_t total)> on_progress;  // may cancel
  };

  // CheckParameters has passed. Reads and packs matrix by matrix.
  static absl::StatusOr<std::unique_ptr<Decoder>> Load(const ModelSource& source, Backend& backend,
                                                       const Options& options);

  // Runs ids through all layers; `sequences` tile the rows in order. Their caches get the keys and
  // values; the hidden states stay in the workspace for Logits. At most max_batch_tokens.
  absl::Status Forward(std::span<const int32_t> ids, std::span<const SequenceRows> sequences);

  // Final norm and head for some rows of the last Forward, at most max_logit_rows, into `out`
  // [rows.size(), vocab]. Waits.
  absl::Status Logits(std::span<const int32_t> rows, std::span<float> out);

  KvShape kv_shape(int capacity) const;
  int64_t vocab_size() const { return config_.vocab_size; }
  const PackedBytes& packed_bytes() const { return packed_bytes_; }
  uint64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  struct Layer {
    std::unique_ptr<DeviceArray> attention_norm, mlp_norm;
    std::unique_ptr<DeviceArray> q_norm, k_norm;  // of the heads, or null
    Linear qkv, output, gate_up, down;
  };

  Decoder(const ModelConfig& config, Backend& backend, const Options& options)
      : config_(config), backend_(backend), options_(options) {}
  absl::Status LoadWeights(const ModelSource& source);
  absl::StatusOr<Layer> LoadLayer(const ModelSource& source, const std::string& prefix);
  absl::Status AllocateWorkspace();
  absl::StatusOr<std::unique_ptr<DeviceArray>> AllocateCounted(int64_t rows, int64_t cols);
  absl::Status RunLayer(int index, int64_t tokens, std::span<const SequenceRows> sequences);
  Norm RmsNorm(const std::unique_ptr<DeviceArray>& weight) const;

  const ModelConfig config_;
  Backend& backend_;
  const Options options_;
  PackedBytes packed_bytes_;
  bool rounds_inputs_ = false;
  uint64_t workspace_bytes_ = 0;

  Linear embedding_;            // tied heads multiply by it too
  std::optional<Linear> head_;  // when not tied
  std::unique_ptr<DeviceArray> final_norm_;
  std::unique_ptr<DeviceArray> rope_;
  std::vector<Layer> layers_;

  // Workspace, one row per token of the batch.
  std::unique_ptr<DeviceArray> hidden_, qkv_, attention_, mlp_;
  std::unique_ptr<DeviceArray> wanted_, logits_;  // one row per logit row
};

}  // namespace quantd

#endif  // QUANTD_MODELS_ARCHITECTURES_DECODER_H_

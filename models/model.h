// A loaded model: packed weights, tokenizer, and one scheduler thread that batches everything
// runnable. All inference of the service goes through this class. Thread-safe; shared by handle.
// When the last handle goes, what still runs ends with UNAVAILABLE and the memory is freed.
#ifndef QUANTD_MODELS_MODEL_H_
#define QUANTD_MODELS_MODEL_H_

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "core/status.h"
#include "formats/model_config.h"
#include "kernels/backend.h"
#include "models/batch_sizes.h"
#include "models/sampling/sampling_options.h"
#include "quantizers/model_source.h"

namespace quantd {

class InputObserver;  // models/input_observer.h
class Tokenizer;      // models/tokenizers/tokenizer.h

struct LoadOptions {
  std::string device = "cpu";  // "cpu", "opencl", "opencl:N", "auto" (OpenCL GPU if any, else CPU)
  Compute compute = Compute::kFast;
  // Inputs of linear layers are rounded as the checkpoint says that its upstream library does
  // (InputTransform::rounding). FAILED_PRECONDITION where it says nothing of them.
  bool quantize_activations = false;
  int32_t context_length = 0;       // 0: min(model's own, 8192)
  int32_t max_sequences = 16;       // running at once; more wait in the queue
  int32_t max_queued = 256;         // waiting; beyond: RESOURCE_EXHAUSTED
  uint64_t memory_limit_bytes = 0;  // for weights + KV caches + workspace; 0: none
  // A sequence whose sink is not Ready for this long ends with DEADLINE_EXCEEDED and frees its
  // place.
  absl::Duration pause_limit = absl::Seconds(60);
  InputObserver* observer = nullptr;  // sees the inputs of all linear layers; outlives the model
  std::function<bool()> cancelled;    // polled between tensors; CANCELLED when true
  std::function<void(int64_t done, int64_t total)> on_progress;  // tensors
};

struct ModelMemory {
  uint64_t weight_bytes = 0;
  uint64_t kv_bytes_per_token = 0;
  uint64_t kv_bytes = 0;  // held now
  // Of these, what sequences have reserved; and what all sequences of full length would, as far as
  // the memory limit lets them.
  uint64_t kv_bytes_in_use = 0, kv_bytes_full = 0;
  uint64_t workspace_bytes = 0;
  std::map<std::string, uint64_t> weight_bytes_by_layout;
};

struct GenerationOptions {
  SamplingOptions sampling;
  int32_t max_tokens = 256;
  std::vector<std::string> stop;
  bool ignore_eos = false;
  bool logprobs = false;  // fill GenerationChunk::logprobs
};

enum class FinishReason { kEos, kStop, kLength };

struct GenerationUsage {
  int32_t prompt_tokens = 0;
  int32_t generated_tokens = 0;
  absl::Duration queued, prefill, decode;
};

struct GenerationChunk {
  std::string text;  // bytes; complete UTF-8 characters unless the model produced broken ones
  std::vector<int32_t> token_ids;
  std::vector<float> logprobs;
};

// Where a generation's output goes. Called from the scheduler thread: must not block or compute,
// nor call Drain. It may drop the last handle of its model.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  // False: the client is gone, stop. Flow control: while Ready() is false the sequence is paused.
  virtual bool Push(GenerationChunk chunk) = 0;
  virtual bool Ready() const { return true; }
  // True: the client is gone; looked at between steps, also while the request waits in the queue.
  virtual bool Cancelled() const { return false; }
  // Exactly once, also on errors; nothing is called afterwards.
  virtual void Finish(absl::Status status, FinishReason reason, const GenerationUsage& usage) = 0;
};

// Logits of consecutive positions `first`, first + 1, ... of sequence `sequence`: rows [n, vocab],
// valid during the call. Called in order, from the compute team (so ParallelFor works); an error
// stops.
using LogitsVisitor =
    std::function<absl::Status(size_t sequence, int32_t first, std::span<const float> rows)>;

// Polled between slices of a request's work; once true, the request ends with CANCELLED.
using StopCheck = std::function<bool()>;

struct TokenScore {
  float logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

class Model {
 public:
  // Bytes that Load would need, from shapes alone; for admission before anything is read.
  static absl::StatusOr<ModelMemory> EstimateMemory(const ModelSource& source,
                                                    const LoadOptions& options);
  // Reads, packs and starts the scheduler. RESOURCE_EXHAUSTED with figures when it does not fit,
  // INVALID_ARGUMENT naming tensor, found and expected shape when the checkpoint is inconsistent.
  static absl::StatusOr<std::shared_ptr<Model>> Load(std::unique_ptr<ModelSource> source,
                                                     const LoadOptions& options);
  virtual ~Model() = default;

  virtual const ModelConfig& config() const = 0;
  virtual std::string quantization() const = 0;
  virtual std::string device() const = 0;
  virtual Compute compute() const = 0;
  virtual bool quantizes_activations() const = 0;
  virtual ModelMemory memory() const = 0;
  virtual int32_t context_length() const = 0;
  virtual bool is_encoder() const = 0;
  virtual const Tokenizer* tokenizer() const = 0;  // null: only token ids work
  virtual bool has_chat_template() const = 0;
  // The prompt's tokens for a chat, by the model's own template (role, content pairs).
  virtual absl::StatusOr<std::vector<int32_t>> EncodeChat(
      const std::vector<std::pair<std::string, std::string>>& messages) const = 0;

  // Queues a generation. Refused at once: INVALID_ARGUMENT (options, token ids), OUT_OF_RANGE
  // (prompt longer than the context, both numbers named), RESOURCE_EXHAUSTED (queue full),
  // UNAVAILABLE (unloading). Afterwards everything goes through `sink`.
  virtual absl::Status Generate(std::vector<int32_t> prompt, const GenerationOptions& options,
                                absl::Time deadline, std::shared_ptr<GenerationSink> sink) = 0;

  // Causal: logits of every position of every sequence, [sum of lengths, vocab]. Lengths may differ
  // (right padding needs no mask: positions never see later ones). Waits; runs in the scheduler
  // between decode steps. RESOURCE_EXHAUSTED above 2 GiB of logits: visit them instead.
  virtual absl::StatusOr<std::vector<float>> Logits(const std::vector<std::vector<int32_t>>& batch,
                                                    StopCheck stop = nullptr) = 0;
  // The same without holding them: positions from `first_position` on. Waits.
  virtual absl::Status VisitLogits(const std::vector<std::vector<int32_t>>& batch,
                                   int32_t first_position, LogitsVisitor visit,
                                   StopCheck stop = nullptr) = 0;
  // Log-probabilities given the tokens before; the first token, which has none, gets 0 and no top.
  virtual absl::StatusOr<std::vector<TokenScore>> Score(const std::vector<int32_t>& tokens,
                                                        int32_t top_n,
                                                        StopCheck stop = nullptr) = 0;

  struct Encoding {
    std::vector<float> last_hidden_state;   // [tokens, hidden]
    std::vector<float> sentence_embedding;  // [hidden], pooled; normalized as the model says
  };
  // Encoders: one result per sequence of token ids.
  virtual absl::StatusOr<std::vector<Encoding>> Encode(
      const std::vector<std::vector<int32_t>>& sequences, std::optional<bool> normalize,
      StopCheck stop = nullptr) = 0;

  struct Activity {
    int32_t running = 0;
    int32_t queued = 0;
    BatchSizes batches;  // of generation, since the load
  };
  virtual Activity activity() const = 0;
  // Refuses new requests from now on and waits until the accepted ones have ended; those that still
  // run at `deadline` end with UNAVAILABLE.
  virtual void Drain(absl::Time deadline) = 0;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_MODEL_H_

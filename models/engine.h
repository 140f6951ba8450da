// What computes inside a loaded model: one backend, one architecture, its KV caches and workspace.
// Used by the scheduler thread only.
#ifndef QUANTD_MODELS_ENGINE_H_
#define QUANTD_MODELS_ENGINE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/status.h"
#include "kernels/backend.h"
#include "models/architectures/decoder.h"
#include "models/architectures/encoder.h"
#include "models/kv_pool.h"

namespace quantd {

// The rows of one forward pass: pieces of several sequences, one below the other.
struct Batch {
  std::vector<int32_t> ids;
  std::vector<SequenceRows> sequences;
  std::vector<int32_t> wanted;  // rows whose logits are wanted, ascending

  // Appends `tokens`, which continue a sequence at `position`.
  void Add(KvCache* cache, std::span<const int32_t> tokens, int32_t position);
  void Want(int32_t row) { wanted.push_back(row); }
  int32_t rows() const { return static_cast<int32_t>(ids.size()); }
  void Clear();
};

struct Engine {
  std::unique_ptr<Backend> backend;  // first: outlives all that it made
  std::unique_ptr<Decoder> decoder;  // one of these two
  std::unique_ptr<Encoder> encoder;
  std::unique_ptr<KvPool> kv;  // with a decoder
  ModelConfig config;
  std::string device;
  int32_t context_length = 0;
  int32_t max_batch_tokens = 0;
  int32_t max_logit_rows = 0;
  std::vector<float> logits;  // [max_logit_rows, vocab], the host's copy

  // Activations and logits, on the device and here.
  uint64_t workspace_bytes() const;

  // Runs `task` where the backend's operations may be called: on the compute team for the CPU, in
  // place for a device that computes by itself.
  void RunInteractive(absl::FunctionRef<void()> task) const;

  // One pass of a decoder over `batch`. Calls visit(first, rows) for blocks of the wanted logits in
  // order, `first` an index into batch.wanted and rows [n, vocab]; inside a compute task, so that
  // it may use ParallelFor. Stops at the first error.
  using LogitsVisitor = absl::FunctionRef<absl::Status(size_t first, std::span<float> rows)>;
  absl::Status Forward(const Batch& batch, LogitsVisitor visit);

 private:
  absl::Status ForwardHere(const Batch& batch, LogitsVisitor visit);
};

// Whether all values are finite: logits that are not must never be sampled from.
bool AllFinite(std::span<const float> values);

}  // namespace quantd

#endif  // QUANTD_MODELS_ENGINE_H_

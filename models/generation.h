// One sequence from its admission to its last token: tokens, KV cache, sampler, text, and its sink.
#ifndef QUANTD_MODELS_GENERATION_H_
#define QUANTD_MODELS_GENERATION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "core/status.h"
#include "kernels/backend.h"
#include "models/model.h"
#include "models/sampling/sampler.h"
#include "models/sampling/stop_matcher.h"
#include "models/tokenizers/tokenizer.h"

namespace quantd {

// What a sequence needs to know of its model.
struct GenerationModel {
  std::shared_ptr<const Tokenizer> tokenizer;  // null: no text, token ids only
  std::vector<int64_t> eos_token_ids;
  int32_t context_length = 0;
};

// Used by the scheduler thread once submitted. The sink's Finish is called exactly once.
class Generation {
 public:
  // `prompt` has been checked: not empty, ids in range, shorter than the context.
  Generation(std::shared_ptr<const GenerationModel> model, std::vector<int32_t> prompt,
             const GenerationOptions& options, absl::Time deadline,
             std::shared_ptr<GenerationSink> sink);

  // Tokens that the KV cache must hold: prompt and max_tokens, capped by the context.
  int32_t max_length() const { return max_length_; }

  // CANCELLED, DEADLINE_EXCEEDED (also when paused for longer than `pause_limit`), or OK.
  absl::Status CheckAlive(absl::Time now, absl::Duration pause_limit);

  void Start(std::unique_ptr<KvCache> cache, absl::Time now);
  KvCache* cache() const { return cache_.get(); }
  std::unique_ptr<KvCache> TakeCache() { return std::move(cache_); }

  // The client takes output now.
  bool CanRun();
  // The prompt is in the cache; one token per step from now on.
  bool decoding() const { return usage_.generated_tokens > 0; }
  // Tokens that are not in the cache yet, which continue at position().
  std::span<const int32_t> pending() const { return std::span(tokens_).subspan(position_); }
  int32_t position() const { return position_; }
  void Advance(int32_t tokens) { position_ += tokens; }

  // Chooses the next token from the logits [vocab] of the last position.
  // The only member that runs on the compute team. Logits that are not finite are never sampled
  // from.
  void Sample(std::span<const float> logits);
  // Gives the sampled token, if any, to the sink, and finishes when it was the last.
  void Deliver();
  void Finish(absl::Status status, FinishReason reason = FinishReason::kLength);
  bool finished() const { return sink_ == nullptr; }
  // The cache may hold NaN and must not be used again.
  bool is_poisoned() const { return sampled_ && !sampled_->ok(); }

 private:
  bool IsEos(int32_t token) const;
  bool PushText(std::string text, bool all);
  void EndWith(FinishReason reason);

  const std::shared_ptr<const GenerationModel> model_;
  const GenerationOptions options_;
  const absl::Time deadline_;
  std::shared_ptr<GenerationSink> sink_;  // null: finished

  std::vector<int32_t> tokens_;  // prompt, then generated
  int32_t max_length_ = 0;
  int32_t position_ = 0;
  std::unique_ptr<KvCache> cache_;

  Sampler sampler_;
  std::optional<absl::StatusOr<SampledToken>> sampled_;  // of the last step

  std::optional<StreamingDecoder> detokenizer_;
  StopMatcher stop_matcher_;
  GenerationChunk held_;  // tokens whose text has not come out yet

  absl::Time submitted_, started_, first_token_;
  std::optional<absl::Time> paused_since_;
  GenerationUsage usage_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_GENERATION_H_

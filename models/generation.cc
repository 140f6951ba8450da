#include "models/generation.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace quantd {

Generation::Generation(std::shared_ptr<const GenerationModel> model, std::vector<int32_t> prompt,
                       const GenerationOptions& options, absl::Time deadline,
                       std::shared_ptr<GenerationSink> sink)
    : model_(std::move(model)),
      options_(options),
      deadline_(deadline),
      sink_(std::move(sink)),
      tokens_(std::move(prompt)),
      sampler_(options.sampling),
      stop_matcher_(options.stop),
      submitted_(absl::Now()) {
  const auto prompt_tokens = static_cast<int32_t>(tokens_.size());
  usage_.prompt_tokens = prompt_tokens;
  max_length_ =
      prompt_tokens + std::min(options.max_tokens, model_->context_length - prompt_tokens);
  tokens_.reserve(static_cast<size_t>(max_length_));
  sampler_.Observe(tokens_);
  if (model_->tokenizer != nullptr) detokenizer_.emplace(*model_->tokenizer);
}

absl::Status Generation::CheckAlive(absl::Time now, absl::Duration pause_limit) {
  if (sink_->Cancelled()) return absl::CancelledError("the client is gone");
  if (now >= deadline_) {
    return absl::DeadlineExceededError(
        absl::StrCat("the deadline passed after ", usage_.generated_tokens, " tokens"));
  }
  if (paused_since_ && now - *paused_since_ >= pause_limit) {
    return absl::DeadlineExceededError(
        absl::StrCat("the client did not read for ", absl::FormatDuration(pause_limit)));
  }
  return absl::OkStatus();
}

void Generation::Start(std::unique_ptr<KvCache> cache, absl::Time now) {
  cache_ = std::move(cache);
  started_ = now;
  usage_.queued = now - submitted_;
}

bool Generation::CanRun() {
  if (sink_->Ready()) {
    paused_since_.reset();
    return true;
  }
  if (!paused_since_) paused_since_ = absl::Now();
  return false;
}

void Generation::Sample(std::span<const float> logits) { sampled_ = sampler_.Sample(logits); }

bool Generation::IsEos(int32_t token) const {
  const std::vector<int64_t>& ids = model_->eos_token_ids;
  return !options_.ignore_eos && std::find(ids.begin(), ids.end(), token) != ids.end();
}

void Generation::Deliver() {
  if (!sampled_) return;
  if (!sampled_->ok()) return Finish(sampled_->status());
  const SampledToken token = **std::exchange(sampled_, std::nullopt);
  if (usage_.generated_tokens == 0) first_token_ = absl::Now();
  if (IsEos(token.id)) return EndWith(FinishReason::kEos);
  tokens_.push_back(token.id);
  ++usage_.generated_tokens;
  sampler_.Observe({&token.id, 1});
  held_.token_ids.push_back(token.id);
  if (options_.logprobs) held_.logprobs.push_back(token.logprob);
  const bool last = static_cast<int32_t>(tokens_.size()) == max_length_;
  std::string text;
  if (detokenizer_) text = stop_matcher_.Push(detokenizer_->Push(token.id));
  if (stop_matcher_.stopped()) {
    if (PushText(std::move(text), /*all=*/true)) Finish(absl::OkStatus(), FinishReason::kStop);
    return;
  }
  if (PushText(std::move(text), /*all=*/false) && last) EndWith(FinishReason::kLength);
}

// Sends `text` with the tokens behind it; without text the tokens wait for theirs unless `all`.
// False: the client is gone and the sequence finished.
bool Generation::PushText(std::string text, bool all) {
  if (text.empty() && (held_.token_ids.empty() || (detokenizer_ && !all))) return true;
  held_.text = std::move(text);
  if (sink_->Push(std::exchange(held_, {}))) return true;
  Finish(absl::CancelledError("the client is gone"));
  return false;
}

// No more tokens: what the detokenizer and the stop matcher hold back comes out.
void Generation::EndWith(FinishReason reason) {
  std::string text;
  if (detokenizer_) {
    text = stop_matcher_.Push(detokenizer_->Flush());
    text += stop_matcher_.Flush();
  }
  if (stop_matcher_.stopped()) reason = FinishReason::kStop;
  if (PushText(std::move(text), /*all=*/true)) Finish(absl::OkStatus(), reason);
}

void Generation::Finish(absl::Status status, FinishReason reason) {
  const absl::Time now = absl::Now();
  if (cache_ == nullptr) {
    usage_.queued = now - submitted_;
  } else if (first_token_ == absl::UnixEpoch()) {
    usage_.prefill = now - started_;
  } else {
    usage_.prefill = first_token_ - started_;
    usage_.decode = now - first_token_;
  }
  const std::shared_ptr<GenerationSink> sink = std::exchange(sink_, nullptr);
  sink->Finish(std::move(status), reason, usage_);
}

}  // namespace quantd

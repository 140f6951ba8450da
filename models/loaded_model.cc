#include "models/loaded_model.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "models/log_softmax.h"
#include "models/sampling/stop_matcher.h"

namespace quantd {
namespace {

constexpr uint64_t kMaxLogitBytes = uint64_t{2} << 30;
constexpr int32_t kMaxTopN = 100;

std::shared_ptr<const GenerationModel> DescribeForGeneration(const Engine& engine,
                                                             const ModelText& text) {
  auto model = std::make_shared<GenerationModel>();
  model->tokenizer = text.tokenizer;
  model->context_length = engine.context_length;
  model->eos_token_ids = engine.config.eos_token_ids;
  if (text.tokenizer != nullptr && text.tokenizer->eos_id()) {
    model->eos_token_ids.push_back(*text.tokenizer->eos_id());
  }
  return model;
}

// The `top_n` largest logits of a row, largest first, the lowest id of equal ones first.
TokenScore ScoreRow(std::span<const float> logits, int32_t next, int32_t top_n) {
  const LogSoftmax softmax(logits);
  TokenScore score{.logprob = static_cast<float>(softmax.LogProb(logits[next]))};
  if (top_n == 0) return score;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto greater = [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const auto count = std::min<ptrdiff_t>(top_n, static_cast<ptrdiff_t>(ids.size()));
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), greater);
  ids.resize(static_cast<size_t>(count));
  for (const int32_t id : ids) {
    score.top_logprobs.push_back(static_cast<float>(softmax.LogProb(logits[id])));
  }
  score.top_ids = std::move(ids);
  return score;
}

absl::Status NotFinite() {
  return absl::DataLossError(
      "the model computed logits that are not finite: its weights are damaged or exceed what "
      "compute \"fast\" can hold; try compute \"exact\"");
}

}  // namespace

LoadedModel::LoadedModel(std::shared_ptr<Engine> engine, ModelText text, std::string quantization,
                         const LoadOptions& options)
    : engine_(std::move(engine)),
      text_(std::move(text)),
      quantization_(std::move(quantization)),
      compute_(options.compute),
      quantizes_activations_(options.quantize_activations),
      max_sequences_(options.max_sequences),
      generation_model_(DescribeForGeneration(*engine_, text_)),
      scheduler_(engine_, {.max_sequences = options.max_sequences,
                           .max_queued = options.max_queued,
                           .pause_limit = options.pause_limit}) {}

ModelMemory LoadedModel::memory() const {
  const PackedBytes& packed =
      is_encoder() ? engine_->encoder->packed_bytes() : engine_->decoder->packed_bytes();
  ModelMemory memory;
  memory.weight_bytes = packed.total;
  memory.weight_bytes_by_layout = packed.by_layout;
  memory.workspace_bytes = engine_->workspace_bytes();
  if (engine_->kv != nullptr) {
    memory.kv_bytes_per_token = engine_->kv->bytes_per_token();
    memory.kv_bytes = engine_->kv->held_bytes();
    memory.kv_bytes_in_use = engine_->kv->used_bytes();
    memory.kv_bytes_full = engine_->kv->FullBytes(max_sequences_, engine_->context_length);
  }
  return memory;
}

absl::StatusOr<std::vector<int32_t>> LoadedModel::EncodeChat(
    const std::vector<std::pair<std::string, std::string>>& messages) const {
  if (!text_.chat_template) {
    return absl::FailedPreconditionError(absl::StrCat(
        "chats cannot be rendered: ", text_.chat_status.message(), "; send text instead"));
  }
  std::vector<ChatMessage> chat;
  for (const auto& [role, content] : messages) chat.push_back({role, content});
  ASSIGN_OR_RETURN(
      const std::string prompt,
      text_.chat_template->Render(chat, /*add_generation_prompt=*/true, text_.chat_tokens));
  // The template spells the special tokens itself.
  return text_.tokenizer->Encode(prompt, {.add_special_tokens = false});
}

absl::Status LoadedModel::CheckTokens(std::span<const int32_t> tokens) const {
  if (tokens.empty()) return absl::InvalidArgumentError("no tokens: expected at least one");
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < engine_->config.vocab_size) continue;
    return absl::InvalidArgumentError(absl::StrCat("token id ", tokens[i], " at index ", i,
                                                   ": expected 0 to ",
                                                   engine_->config.vocab_size - 1));
  }
  if (static_cast<int64_t>(tokens.size()) <= context_length()) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("the input has ", tokens.size(),
                                            " tokens, the context holds ", context_length(),
                                            "; shorten it or load with a longer context"));
}

absl::Status LoadedModel::CheckIsDecoder() const {
  if (!is_encoder()) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      config().architecture, " is an encoder: it gives embeddings, not text or logits"));
}

absl::Status LoadedModel::Generate(std::vector<int32_t> prompt, const GenerationOptions& options,
                                   absl::Time deadline, std::shared_ptr<GenerationSink> sink) {
  RETURN_IF_ERROR(CheckIsDecoder());
  RETURN_IF_ERROR(CheckTokens(prompt));
  RETURN_IF_ERROR(ValidateSamplingOptions(options.sampling));
  RETURN_IF_ERROR(ValidateStopStrings(options.stop));
  if (options.max_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens ", options.max_tokens, ": expected 1 or more"));
  }
  if (!options.stop.empty() && text_.tokenizer == nullptr) {
    return absl::FailedPreconditionError(
        "the model has no tokenizer, so stop strings cannot be looked for");
  }
  if (static_cast<int64_t>(prompt.size()) >= context_length()) {
    return absl::OutOfRangeError(
        absl::StrCat("the prompt of ", prompt.size(),
                     " tokens leaves no room to generate in the context of ", context_length()));
  }
  if (absl::Now() >= deadline) return absl::DeadlineExceededError("the deadline has passed");
  return scheduler_.Submit(std::make_unique<Generation>(generation_model_, std::move(prompt),
                                                        options, deadline, std::move(sink)));
}

absl::Status LoadedModel::VisitLogits(const std::vector<std::vector<int32_t>>& batch,
                                      int32_t first_position, LogitsVisitor visit, StopCheck stop) {
  RETURN_IF_ERROR(CheckIsDecoder());
  for (const std::vector<int32_t>& tokens : batch) {
    RETURN_IF_ERROR(CheckTokens(tokens));
    RETURN_IF_ERROR(engine_->kv->CheckFits(static_cast<int32_t>(tokens.size())));
  }
  if (batch.empty()) return absl::OkStatus();
  LogitsWork work(batch, first_position, std::move(visit), std::move(stop));
  return scheduler_.Run(work);
}

absl::StatusOr<std::vector<float>> LoadedModel::Logits(
    const std::vector<std::vector<int32_t>>& batch, StopCheck stop) {
  const auto vocab = static_cast<uint64_t>(engine_->config.vocab_size);
  std::vector<uint64_t> begin;  // of each sequence, in floats
  uint64_t total = 0;
  for (const std::vector<int32_t>& tokens : batch) {
    begin.push_back(total);
    total += tokens.size() * vocab;
    if (total * sizeof(float) <= kMaxLogitBytes) continue;
    return absl::ResourceExhaustedError(absl::StrCat("the logits of this batch take more than ",
                                                     kMaxLogitBytes,
                                                     " bytes; send fewer or shorter sequences"));
  }
  std::vector<float> logits;
  RETURN_IF_ERROR(VisitLogits(
      batch, 0,
      [&](size_t sequence, int32_t first, std::span<const float> rows) -> absl::Status {
        if (!AllFinite(rows)) return NotFinite();
        if (logits.empty()) logits.resize(total);
        std::copy(rows.begin(), rows.end(), logits.begin() + begin[sequence] + first * vocab);
        return absl::OkStatus();
      },
      std::move(stop)));
  return logits;
}

absl::StatusOr<std::vector<TokenScore>> LoadedModel::Score(const std::vector<int32_t>& tokens,
                                                           int32_t top_n, StopCheck stop) {
  if (top_n < 0 || top_n > kMaxTopN) {
    return absl::InvalidArgumentError(absl::StrCat("top_n ", top_n, ": expected 0 to ", kMaxTopN));
  }
  const size_t vocab = static_cast<size_t>(engine_->config.vocab_size);
  std::vector<TokenScore> scores(tokens.size());
  RETURN_IF_ERROR(VisitLogits(
      {tokens}, 0,
      [&](size_t, int32_t first, std::span<const float> rows) -> absl::Status {
        if (!AllFinite(rows)) return NotFinite();
        // The row of position p says how likely token p + 1 is.
        ParallelFor(static_cast<int64_t>(rows.size() / vocab), [&](int64_t i) {
          const size_t next = static_cast<size_t>(first + i) + 1;
          if (next >= tokens.size()) return;
          scores[next] = ScoreRow(rows.subspan(i * vocab, vocab), tokens[next], top_n);
        });
        return absl::OkStatus();
      },
      std::move(stop)));
  return scores;
}

absl::StatusOr<std::vector<Model::Encoding>> LoadedModel::Encode(
    const std::vector<std::vector<int32_t>>& sequences, std::optional<bool> normalize,
    StopCheck stop) {
  if (!is_encoder()) {
    return absl::UnimplementedError(
        absl::StrCat(config().architecture,
                     " is a causal language model: it gives text and logits, not "
                     "sentence embeddings"));
  }
  for (const std::vector<int32_t>& tokens : sequences) RETURN_IF_ERROR(CheckTokens(tokens));
  std::vector<Encoding> results(sequences.size());
  if (sequences.empty()) return results;
  EncodeWork work(sequences, results, normalize.value_or(config().normalize_embedding),
                  std::move(stop));
  RETURN_IF_ERROR(scheduler_.Run(work));
  for (const Encoding& result : results) {
    if (!AllFinite(result.sentence_embedding)) {
      return absl::DataLossError("the model computed an embedding that is not finite");
    }
  }
  return results;
}

}  // namespace quantd

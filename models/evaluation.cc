#include "models/evaluation.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "core/parallel.h"
#include "models/log_softmax.h"
#include "models/model_text.h"

namespace quantd {
namespace {

// Sums over scored positions.
struct Totals {
  int64_t count = 0;
  double nll = 0, nll_squares = 0;
  double kl = 0;
  double reference_nll = 0;
  int64_t same_top = 0;

  void Add(double value) {
    ++count;
    nll += value;
    nll_squares += value * value;
  }
};

// The reference's log-probabilities of the scored half of one window, [positions, vocab].
struct ReferenceWindow {
  std::vector<float> logprobs;
  size_t vocab = 0;
  std::span<const float> row(size_t index) const {
    return std::span(logprobs).subspan(index * vocab, vocab);
  }
};

int64_t ArgMax(std::span<const float> values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

// One position's contribution, computed in parallel and summed in order afterwards.
struct PositionScore {
  double nll = 0, kl = 0, reference_nll = 0;
  bool same_top = false;
};

PositionScore ScorePosition(std::span<const float> logits, int32_t next,
                            std::span<const float> reference) {
  const LogSoftmax model(logits);
  PositionScore score{.nll = -model.LogProb(logits[next])};
  if (reference.empty()) return score;
  double kl = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double log_p = reference[i];
    kl += std::exp(log_p) * (log_p - model.LogProb(logits[i]));
  }
  score.kl = kl;
  score.reference_nll = -reference[next];
  score.same_top = ArgMax(logits) == ArgMax(reference);
  return score;
}

class WindowEvaluator {
 public:
  WindowEvaluator(Model& model, Model* reference, int32_t window)
      : model_(model), reference_(reference), first_(window / 2) {}

  // Scores the tokens after position first_ of `window`, each given all before it.
  absl::Status Add(const std::vector<int32_t>& window) {
    ReferenceWindow expected;
    if (reference_ != nullptr) {
      ASSIGN_OR_RETURN(expected, ReadReference(window));
    }
    // The last position predicts a token of the next window.
    const size_t scored = window.size() - 1 - first_;
    std::vector<PositionScore> scores(scored);
    const size_t vocab = static_cast<size_t>(model_.config().vocab_size);
    RETURN_IF_ERROR(model_.VisitLogits(
        {window}, first_, [&](size_t, int32_t first, std::span<const float> rows) {
          const size_t begin = static_cast<size_t>(first - first_);
          const size_t count = std::min(rows.size() / vocab, scored - std::min(scored, begin));
          ParallelFor(static_cast<int64_t>(count), [&](int64_t i) {
            const size_t index = begin + i;
            scores[index] = ScorePosition(
                rows.subspan(i * vocab, vocab), window[first_ + index + 1],
                reference_ == nullptr ? std::span<const float>() : expected.row(index));
          });
          return absl::OkStatus();
        }));
    for (const PositionScore& score : scores) {
      if (!std::isfinite(score.nll) || !std::isfinite(score.kl)) {
        return absl::DataLossError(
            "the model gives logits that are not finite; its checkpoint is damaged");
      }
      totals_.Add(score.nll);
      totals_.kl += score.kl;
      totals_.reference_nll += score.reference_nll;
      totals_.same_top += score.same_top;
    }
    return absl::OkStatus();
  }

  EvaluationResult Result() const;

 private:
  absl::StatusOr<ReferenceWindow> ReadReference(const std::vector<int32_t>& window) {
    ReferenceWindow result;
    result.vocab = static_cast<size_t>(reference_->config().vocab_size);
    result.logprobs.resize((window.size() - first_) * result.vocab);
    RETURN_IF_ERROR(reference_->VisitLogits(
        {window}, first_, [&](size_t, int32_t first, std::span<const float> rows) {
          const size_t begin = static_cast<size_t>(first - first_);
          ParallelFor(static_cast<int64_t>(rows.size() / result.vocab), [&](int64_t i) {
            const std::span<const float> logits = rows.subspan(i * result.vocab, result.vocab);
            const LogSoftmax softmax(logits);
            float* out = result.logprobs.data() + (begin + i) * result.vocab;
            for (size_t v = 0; v < result.vocab; ++v) {
              out[v] = static_cast<float>(softmax.LogProb(logits[v]));
            }
          });
          return absl::OkStatus();
        }));
    return result;
  }

  Model& model_;
  Model* const reference_;
  const int32_t first_;
  Totals totals_;
};

EvaluationResult WindowEvaluator::Result() const {
  const double n = static_cast<double>(totals_.count);
  const double mean = totals_.nll / n;
  EvaluationResult result;
  result.scored_tokens = totals_.count;
  result.perplexity = std::exp(mean);
  const double variance = std::max(0.0, totals_.nll_squares / n - mean * mean);
  if (n > 1) result.perplexity_error = result.perplexity * std::sqrt(variance / (n - 1));
  if (reference_ == nullptr) return result;
  result.mean_kl_divergence = std::max(0.0, totals_.kl / n);
  result.top1_agreement = static_cast<double>(totals_.same_top) / n;
  result.reference_perplexity = std::exp(totals_.reference_nll / n);
  return result;
}

absl::Status CheckComparable(const Model& model, const Model* reference) {
  if (reference == nullptr) return absl::OkStatus();
  if (model.is_encoder() != reference->is_encoder()) {
    return absl::InvalidArgumentError(
        "an encoder and a causal language model cannot be compared; name two models of one kind");
  }
  const int64_t found = reference->config().vocab_size, expected = model.config().vocab_size;
  if (!model.is_encoder() && found != expected) {
    return absl::InvalidArgumentError(absl::StrCat("the reference has a vocabulary of ", found,
                                                   " tokens, the model one of ", expected,
                                                   "; both must be the same"));
  }
  return absl::OkStatus();
}

absl::Status CheckCancelled(const EvaluationOptions& options) {
  if (options.cancelled && options.cancelled()) return absl::CancelledError("cancelled");
  return absl::OkStatus();
}

absl::StatusOr<int32_t> WindowLength(const Model& model, const Model* reference,
                                     const EvaluationOptions& options) {
  const int32_t window = options.context_length;
  int32_t longest = model.context_length();
  if (reference != nullptr) longest = std::min(longest, reference->context_length());
  if (window >= 4 && window <= longest) return window;
  return absl::InvalidArgumentError(
      absl::StrCat("context_length ", window, ": expected 4 to ", longest));
}

absl::StatusOr<EvaluationResult> EvaluateCausal(Model& model, Model* reference,
                                                absl::string_view text,
                                                const EvaluationOptions& options) {
  ASSIGN_OR_RETURN(const int32_t window, WindowLength(model, reference, options));
  ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model.tokenizer()->Encode(text));
  if (options.max_tokens > 0 && static_cast<int64_t>(tokens.size()) > options.max_tokens) {
    tokens.resize(static_cast<size_t>(options.max_tokens));
  }
  const int64_t windows = static_cast<int64_t>(tokens.size()) / window;
  if (windows == 0) {
    return absl::InvalidArgumentError(absl::StrCat("the text has ", tokens.size(),
                                                   " tokens, one window needs ", window,
                                                   "; give more text or a shorter context_length"));
  }
  ASSIGN_OR_RETURN(const std::optional<int32_t> bos, LeadingBos(*model.tokenizer()));
  WindowEvaluator evaluator(model, reference, window);
  for (int64_t i = 0; i < windows; ++i) {
    RETURN_IF_ERROR(CheckCancelled(options));
    std::vector<int32_t> ids(tokens.begin() + i * window, tokens.begin() + (i + 1) * window);
    if (bos) ids[0] = *bos;  // takes the place of the first token, which is not scored
    RETURN_IF_ERROR(evaluator.Add(ids));
    if (options.on_progress) options.on_progress((i + 1) * window, windows * window);
  }
  return evaluator.Result();
}

double Cosine(std::span<const float> a, std::span<const float> b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    dot += static_cast<double>(a[i]) * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += static_cast<double>(b[i]) * b[i];
  }
  return dot / std::max(std::sqrt(aa * bb), 1e-30);
}

absl::StatusOr<std::vector<int32_t>> EncodeLine(const Model& model, absl::string_view line) {
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, model.tokenizer()->Encode(line));
  if (static_cast<int64_t>(ids.size()) > model.context_length()) {
    ids.resize(static_cast<size_t>(model.context_length()));
  }
  return ids;
}

absl::StatusOr<EvaluationResult> EvaluateEncoder(Model& model, Model* reference,
                                                 absl::string_view text,
                                                 const EvaluationOptions& options) {
  if (reference == nullptr) {
    return absl::InvalidArgumentError(
        "an encoder is evaluated against a reference: name one (its unquantized original)");
  }
  if (model.config().hidden_size != reference->config().hidden_size) {
    return absl::InvalidArgumentError(absl::StrCat("embeddings of ", model.config().hidden_size,
                                                   " and ", reference->config().hidden_size,
                                                   " dimensions cannot be compared"));
  }
  std::vector<absl::string_view> lines = absl::StrSplit(text, '\n', absl::SkipWhitespace());
  if (lines.empty()) return absl::InvalidArgumentError("the text has no sentences, one per line");
  EvaluationResult result;
  double sum = 0;
  constexpr size_t kBatch = 32;
  for (size_t first = 0; first < lines.size(); first += kBatch) {
    RETURN_IF_ERROR(CheckCancelled(options));
    std::vector<std::vector<int32_t>> ids, reference_ids;
    for (size_t i = first; i < std::min(lines.size(), first + kBatch); ++i) {
      ASSIGN_OR_RETURN(ids.emplace_back(), EncodeLine(model, lines[i]));
      ASSIGN_OR_RETURN(reference_ids.emplace_back(), EncodeLine(*reference, lines[i]));
      result.scored_tokens += static_cast<int64_t>(ids.back().size());
      // The line that reaches the limit is the last.
      if (options.max_tokens > 0 && result.scored_tokens >= options.max_tokens) lines.resize(i + 1);
    }
    ASSIGN_OR_RETURN(const auto found, model.Encode(ids, std::nullopt));
    ASSIGN_OR_RETURN(const auto expected, reference->Encode(reference_ids, std::nullopt));
    for (size_t i = 0; i < found.size(); ++i) {
      sum += Cosine(found[i].sentence_embedding, expected[i].sentence_embedding);
    }
    const auto done = static_cast<int64_t>(first + ids.size());
    if (options.on_progress) options.on_progress(done, static_cast<int64_t>(lines.size()));
  }
  result.mean_cosine = sum / static_cast<double>(lines.size());
  return result;
}

}  // namespace

absl::StatusOr<EvaluationResult> Evaluate(Model& model, Model* reference, absl::string_view text,
                                          const EvaluationOptions& options) {
  RETURN_IF_ERROR(CheckComparable(model, reference));
  if (model.tokenizer() == nullptr || (reference != nullptr && reference->tokenizer() == nullptr)) {
    return absl::FailedPreconditionError("the model has no tokenizer, so a text cannot be scored");
  }
  return model.is_encoder() ? EvaluateEncoder(model, reference, text, options)
                            : EvaluateCausal(model, reference, text, options);
}

}  // namespace quantd

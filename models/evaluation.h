// Quality of a model, measured: perplexity, KL divergence, top-1 agreement, embedding cosine.
#ifndef QUANTD_MODELS_EVALUATION_H_
#define QUANTD_MODELS_EVALUATION_H_

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "models/model.h"

namespace quantd {

struct EvaluationOptions {
  int32_t context_length =
      512;                 // window; its second half is scored (as llama.cpp's perplexity does)
  int64_t max_tokens = 0;  // 0: the whole text
  std::function<bool()> cancelled;
  std::function<void(int64_t done, int64_t total)> on_progress;
};

struct EvaluationResult {
  double perplexity = 0;
  double perplexity_error = 0;  // standard error
  int64_t scored_tokens = 0;
  std::optional<double> mean_kl_divergence;  // KL(reference || model), nats per token
  std::optional<double> top1_agreement;
  std::optional<double> reference_perplexity;
  std::optional<double> mean_cosine;  // encoders, one sentence per line
};

// INVALID_ARGUMENT for a text shorter than one window or vocabularies that differ.
absl::StatusOr<EvaluationResult> Evaluate(Model& model, Model* reference, absl::string_view text,
                                          const EvaluationOptions& options);

}  // namespace quantd

#endif  // QUANTD_MODELS_EVALUATION_H_

// Chooses the next token from logits.
//
// The order is that of Transformers' logits processors: repetition penalty (CTRL,
// arXiv:1909.05858), temperature, top-k, top-p (arXiv:1904.09751), min-p (arXiv:2407.01082); each
// works on what the one before left, renormalized.
#ifndef QUANTD_MODELS_SAMPLING_SAMPLER_H_
#define QUANTD_MODELS_SAMPLING_SAMPLER_H_

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "models/sampling/sampling_options.h"

namespace quantd {

struct SampledToken {
  int32_t id = 0;
  // Natural logarithm of its probability under the model: softmax of the logits as given, before
  // penalty, temperature and filters.
  float logprob = 0;
};

// Random numbers: PCG-XSH-RR 64/32 (O'Neill, HMC-CS-2014-0905). The same seed gives the same draws
// on every machine.
class Pcg32 {
 public:
  explicit Pcg32(uint64_t seed);
  uint32_t Next();
  // In [0, 1), 53 bits.
  double NextUnit();

 private:
  uint64_t state_;
};

// The state of one sequence. Not thread-safe.
class Sampler {
 public:
  // `options` have passed ValidateSamplingOptions.
  explicit Sampler(const SamplingOptions& options);

  // Tokens of the prompt and those sampled count for the repetition penalty. Ids out of range of
  // the logits are ignored.
  void Observe(std::span<const int32_t> ids);

  // Chooses from `logits` [vocabulary], not empty. INVALID_ARGUMENT when a logit is NaN or +Inf, or
  // all are -Inf: the model's weights are broken, and nothing is sampled. -Inf masks a token.
  // Does not observe the result.
  absl::StatusOr<SampledToken> Sample(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;  // after penalty, before temperature
    int32_t id;
  };
  void Penalize(std::span<const float> logits);
  int32_t Draw(std::span<const float> logits);
  int32_t DrawFromAll(std::span<const float> logits, float max);
  void KeepTopK(size_t k);
  // `total` is the sum of the weights exp((logit - max) / temperature).
  void KeepTopP(double total, float max);

  SamplingOptions options_;
  Pcg32 random_;
  std::vector<bool> seen_;
  std::vector<int32_t> seen_ids_;
  std::vector<float> penalized_;
  std::vector<Candidate> candidates_;
};

// log(sum(exp(logits))), which makes any logit a log-probability. The sum is taken in a fixed
// order.
double LogSumExp(std::span<const float> logits, float max);

}  // namespace quantd

#endif  // QUANTD_MODELS_SAMPLING_SAMPLER_H_

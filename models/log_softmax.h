// Log-probabilities from logits, in double.
#ifndef QUANTD_MODELS_LOG_SOFTMAX_H_
#define QUANTD_MODELS_LOG_SOFTMAX_H_

#include <algorithm>
#include <cmath>
#include <span>

namespace quantd {

class LogSoftmax {
 public:
  explicit LogSoftmax(std::span<const float> logits) {
    const float max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit - max);
    log_sum_ = max + std::log(sum);
  }
  // Of the token whose logit this is.
  double LogProb(float logit) const { return logit - log_sum_; }

 private:
  double log_sum_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_LOG_SOFTMAX_H_

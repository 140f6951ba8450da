// How the next token is chosen.
#ifndef QUANTD_MODELS_SAMPLING_SAMPLING_OPTIONS_H_
#define QUANTD_MODELS_SAMPLING_SAMPLING_OPTIONS_H_

#include <cstdint>
#include <optional>

#include "absl/status/status.h"

namespace quantd {

struct SamplingOptions {
  float temperature = 0;         // 0: greedy; the largest logit, the lowest id of equal ones
  int32_t top_k = 0;             // keep the k most probable; 0: all
  float top_p = 1;               // keep the fewest whose probabilities add up to this; 1: all
  float min_p = 0;               // keep those at least this times as probable as the best; 0: all
  float repetition_penalty = 1;  // > 1 makes tokens seen before less probable; 1: none
  std::optional<uint64_t> seed;  // unset: a fresh one
};

// INVALID_ARGUMENT naming the field for what is out of range: temperature 0 to 1000, top_k >= 0,
// 0 < top_p <= 1, 0 <= min_p < 1, 0.01 <= repetition_penalty <= 100.
absl::Status ValidateSamplingOptions(const SamplingOptions& options);

}  // namespace quantd

#endif  // QUANTD_MODELS_SAMPLING_SAMPLING_OPTIONS_H_

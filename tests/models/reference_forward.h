// The plainest possible forward passes, in double: what the architectures are compared with.
#ifndef QUANTD_TESTS_MODELS_REFERENCE_FORWARD_H_
#define QUANTD_TESTS_MODELS_REFERENCE_FORWARD_H_

#include <cstdint>
#include <span>
#include <vector>

#include "memory_source.h"

namespace quantd {

// Logits of every position, [tokens, vocab], in a context of max_position_embeddings.
std::vector<double> ReferenceLogits(const MemorySource& source, const std::vector<int32_t>& ids);
// Last hidden states of an encoder, [tokens, hidden].
std::vector<double> ReferenceHiddenStates(const MemorySource& source,
                                          const std::vector<int32_t>& ids);

// |found - expected| / |expected|, as vectors.
double RelativeError(std::span<const float> found, const std::vector<double>& expected);

}  // namespace quantd

#endif  // QUANTD_TESTS_MODELS_REFERENCE_FORWARD_H_

// Padding of Open Inference requests. Models take sequences of different lengths, so padding is
// left out on the way in and put back on the way out.
#ifndef QUANTD_SERVICE_OPEN_INFERENCE_ATTENTION_MASK_H_
#define QUANTD_SERVICE_OPEN_INFERENCE_ATTENTION_MASK_H_

#include <cstdint>
#include <span>
#include <vector>

#include "core/status.h"
#include "service/open_inference/tensor_data.h"

namespace quantd {

// The tokens of one row that are no padding.
struct TokenRun {
  int64_t first = 0;
  int64_t count = 0;
};

// One run of ones per row of `mask` [rows, width]; without a mask, all tokens. INVALID_ARGUMENT for
// another shape, other values or a row of zeros; UNIMPLEMENTED for zeros between ones.
absl::StatusOr<std::vector<TokenRun>> ReadAttentionMask(const InputTensor* mask, int64_t rows,
                                                        int64_t width);

// Puts zeros where padding on the left was left out. `values`: `dimension` numbers for each
// position from a row's run on, row after row; afterwards [rows, width, dimension].
void RestoreLeftPadding(std::span<const TokenRun> runs, int64_t width, int64_t dimension,
                        std::vector<float>& values);

}  // namespace quantd

#endif  // QUANTD_SERVICE_OPEN_INFERENCE_ATTENTION_MASK_H_

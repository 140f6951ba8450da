#include "service/open_inference/attention_mask.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace quantd {

absl::StatusOr<std::vector<TokenRun>> ReadAttentionMask(const InputTensor* mask, int64_t rows,
                                                        int64_t width) {
  std::vector<TokenRun> runs(static_cast<size_t>(rows), TokenRun{0, width});
  if (mask == nullptr) {
    return runs;
  }
  if (mask->shape != std::vector<int64_t>{rows, width}) {
    return InputError("attention_mask",
                      absl::StrCat("shape [", absl::StrJoin(mask->shape, ","),
                                   "], expected that of input_ids [", rows, ",", width, "]"));
  }
  ASSIGN_OR_RETURN(const std::vector<int64_t> values, Integers(*mask));
  for (int64_t row = 0; row < rows; ++row) {
    const auto begin = values.begin() + row * width;
    const auto end = begin + width;
    if (std::any_of(begin, end, [](int64_t value) { return value != 0 && value != 1; })) {
      return InputError("attention_mask", "values must be 0 or 1");
    }
    const auto first = std::find(begin, end, 1);
    if (first == end) {
      return InputError("attention_mask", absl::StrCat("row ", row, " masks every token"));
    }
    const auto last = std::find(first, end, 0);
    if (std::find(last, end, 1) != end) {
      return absl::UnimplementedError(
          absl::StrCat("input \"attention_mask\": row ", row,
                       " masks tokens between others; only padding at the ends is supported"));
    }
    runs[static_cast<size_t>(row)] = {first - begin, last - first};
  }
  return runs;
}

void RestoreLeftPadding(std::span<const TokenRun> runs, int64_t width, int64_t dimension,
                        std::vector<float>& values) {
  auto from = static_cast<int64_t>(values.size());
  auto row = static_cast<int64_t>(runs.size());
  values.resize(static_cast<size_t>(row * width * dimension));
  // From the back, where everything moves to a higher place or stays.
  while (row-- > 0) {
    const int64_t padding = runs[static_cast<size_t>(row)].first * dimension;
    const int64_t kept = width * dimension - padding;
    from -= kept;
    const int64_t to = row * width * dimension + padding;
    if (to == from) {
      return;  // no row before has padding either
    }
    std::move_backward(values.begin() + from, values.begin() + from + kept,
                       values.begin() + to + kept);
    std::fill_n(values.begin() + to - padding, padding, 0.0F);
  }
}

}  // namespace quantd

#include "quantizers/methods/calibrated_gram.h"

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {

absl::StatusOr<std::vector<float>> MeanGram(const InputStats* stats, int64_t cols,
                                            absl::string_view method) {
  if (stats == nullptr || (stats->tokens > 0 && stats->gram.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat(method, " is fitted to inputs of the layer: give calibration data"));
  }
  std::vector<float> gram(cols * cols);
  if (stats->tokens <= 0) {
    stats->Warn(absl::StrCat("no calibration token reaches it, so for ", method,
                             " all inputs count alike"));
    for (int64_t c = 0; c < cols; ++c) gram[c * (cols + 1)] = 1;
    return gram;
  }
  const auto tokens = static_cast<float>(stats->tokens);
  RETURN_IF_ERROR(ParallelForUnlessStopped(cols, StopOf(stats), [&](int64_t row) {
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) gram[i] = stats->gram[i] / tokens;
  }));
  return gram;
}

std::vector<float> FloatsOf(const TensorView& weight) {
  std::vector<float> values(weight.elements());
  const int64_t cols = weight.shape.back();
  ParallelFor(weight.elements() / cols, [&](int64_t row) {
    LoadFloats(weight, row * cols, cols, values.data() + row * cols);
  });
  return values;
}

}  // namespace quantd

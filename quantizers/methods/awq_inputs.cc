#include "quantizers/methods/awq_inputs.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int64_t kSampleTokens = 512;  // n_sample_token

int64_t TokensOf(const BlockInputs& inputs) {
  int64_t tokens = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) tokens += inputs.tokens(s);
  return tokens;
}

// sums[c] += |values[t, c]|, token after token.
void AddMagnitudes(const FloatBuffer& values, std::span<double> sums) {
  constexpr int64_t kCols = 64;  // of a task
  const auto cols = static_cast<int64_t>(sums.size());
  const int64_t tokens = static_cast<int64_t>(values.size()) / cols;
  const auto add = [&](int64_t task) {
    const int64_t end = std::min(cols, (task + 1) * kCols);
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = values.data() + t * cols;
      for (int64_t c = task * kCols; c < end; ++c) sums[c] += std::abs(row[c]);
    }
  };
  ParallelFor((cols + kCols - 1) / kCols, add, static_cast<double>(tokens * kCols) * 1e-9);
}

}  // namespace

void RoundToHalf(std::span<float> values) {
  constexpr size_t kTask = 1 << 14;
  const auto round = [&](int64_t task) {
    const size_t first = static_cast<size_t>(task) * kTask;
    for (float& value : values.subspan(first, std::min(kTask, values.size() - first))) {
      value = InFloat16::Round(value);
    }
  };
  ParallelFor(static_cast<int64_t>((values.size() + kTask - 1) / kTask), round, 3e-5);
}

AwqGroupInputs::AwqGroupInputs(const Shape& shape, const BlockInputs& inputs, ProductDevice* device)
    : by_gram_((shape.from == BlockValue::kAttended || shape.from == BlockValue::kMlpHidden) &&
               TokensOf(inputs) >= shape.cols),
      sums_(static_cast<size_t>(shape.cols)),
      statistics_(shape.cols, {.gram = by_gram_}, TokensOf(inputs), device),
      // Two groups at most keep values of many tokens.
      sequences_(inputs.Store(absl::StrCat("awq-inputs-", static_cast<int>(shape.from)),
                              SequenceStore::kMemoryBytes / 2)) {}

absl::Status AwqGroupInputs::Add(const FloatBuffer& values) {
  tokens_ += static_cast<int64_t>(values.size() / sums_.size());
  AddMagnitudes(values, sums_);
  if (!by_gram_) return sequences_.Append(values);
  if (!is_finite_) return absl::OkStatus();
  absl::Status added = statistics_.Add(values);
  is_finite_ = !absl::IsInvalidArgument(added);  // beyond float16
  return is_finite_ ? added : absl::OkStatus();
}

absl::Status AwqGroupInputs::Finish() {
  for (const double sum : sums_) {
    mean_magnitude_.push_back(static_cast<float>(sum / static_cast<double>(tokens_)));
  }
  if (!by_gram_ || !is_finite_) return absl::OkStatus();
  absl::Status finished = statistics_.Finish();
  is_finite_ = !absl::IsInvalidArgument(finished);
  return is_finite_ ? finished : absl::OkStatus();
}

std::span<const float> AwqGroupInputs::gram() const {
  return by_gram_ && is_finite_ ? statistics_.View().gram : std::span<const float>();
}

absl::StatusOr<AwqInputs> CollectAwqInputs(CalibratedBlock& block, const BlockInputs& inputs,
                                           std::span<const AwqGroupInputs::Shape> groups,
                                           bool with_samples, SolverControl& control) {
  AwqInputs result;
  std::map<BlockValue, int64_t> sampled;  // places, and how wide they are
  for (const BlockLinear& linear : block.linears()) {
    if (with_samples) sampled.emplace(linear.input, linear.cols);
  }
  BlockValue until = with_samples ? BlockValue::kMlpHidden : BlockValue::kInput;
  for (const AwqGroupInputs::Shape& group : groups) {
    result.groups.emplace_back(group, inputs, block.device());
    until = std::max(until, group.from);
  }
  const int64_t step = std::max<int64_t>(1, TokensOf(inputs) / kSampleTokens);
  int64_t first = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) {
    if (control.stopped && control.stopped()) {
      return absl::CancelledError("the operation was cancelled");
    }
    ASSIGN_OR_RETURN(const FloatBuffer hidden, inputs.Read(s));
    BlockPass pass = block.Run(BlockValue::kInput, hidden, until);
    for (FloatBuffer& values : pass.values) RoundToHalf(values);
    for (size_t g = 0; g < groups.size(); ++g) {
      RETURN_IF_ERROR(result.groups[g].Add(pass[groups[g].from]));
    }
    for (const auto& [place, cols] : sampled) {
      std::vector<float>& sample = result.samples[static_cast<size_t>(place)];
      for (int64_t t = (step - first % step) % step; t < pass.tokens; t += step) {
        const float* row = pass[place].data() + t * cols;
        sample.insert(sample.end(), row, row + cols);
      }
    }
    first += pass.tokens;
  }
  for (AwqGroupInputs& group : result.groups) RETURN_IF_ERROR(group.Finish());
  return result;
}

}  // namespace quantd

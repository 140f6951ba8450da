// How far the outputs of solved matrices are from those of their sources.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/block_job.h"
#include "quantizers/output_error.h"
#include "quantizers/quantization_error.h"

namespace quantd {
namespace {

std::string WeightOf(const std::string& module) { return absl::StrCat(module, ".weight"); }

}  // namespace

absl::Status BlockJob::Measure(const BlockLinear& linear, const TensorView& weight,
                               std::span<const float> rows, Solved& of) {
  const auto measured = OutputErrorsOf(weight, of.tensor, rows, [this] { return job_.stopping(); });
  if (absl::IsCancelled(measured.status())) return job_.Stopped();
  RETURN_IF_ERROR(measured.status());
  const OutputErrors& errors = *measured;
  of.layer.relative_error = RelativeError(weight, of.tensor);
  of.layer.output_error = errors.quantized;
  of.layer.rounding_error = errors.rounded;
  job_.Tell([&](QuantizeProgress& progress) {
    progress.tensor = linear.module;
    progress.output_error = errors.quantized;
    progress.rounding_error = errors.rounded;
  });
  return absl::OkStatus();
}

absl::Status BlockJob::MeasureTogether(CalibratedBlock& block, Results& results) {
  for (auto& [module, of] : results) {
    if (job_.stopping()) return job_.Stopped();
    ASSIGN_OR_RETURN(const SharedTensor source, job_.LendPlain(*Find(module)));
    // What was quantized: the source's, or what the solver made of it and left in the block.
    if (solver_->rescales()) continue;
    const std::span<float> now = block.Parameter(WeightOf(module));
    LoadFloats(source.view, 0, static_cast<int64_t>(now.size()), now.data());
    RETURN_IF_ERROR(source.CheckIntact());
  }
  std::map<BlockValue, std::vector<float>> samples;
  for (int64_t s = 0, tokens = 0; s < inputs_->sequences() && tokens < kErrorTokens; ++s) {
    ASSIGN_OR_RETURN(const FloatBuffer hidden, inputs_->Read(s, false));
    tokens += inputs_->tokens(s);
    const BlockPass pass = block.Run(BlockValue::kInput, hidden, BlockValue::kOutput);
    if (job_.stopping()) return job_.Stopped();
    for (const BlockLinear& linear : block.linears()) samples[linear.input];
    for (auto& [value, rows] : samples) {
      rows.insert(rows.end(), pass[value].begin(), pass[value].end());
    }
  }
  for (const BlockLinear& linear : block.linears()) {
    const auto found = results.find(linear.module);
    if (found == results.end()) continue;
    Solved& of = found->second;
    const std::span<const float> now = block.Parameter(WeightOf(linear.module));
    const TensorView weight{DType::kF32, {linear.rows, linear.cols}, std::as_bytes(now)};
    const std::span<const float> rows =
        std::span<const float>(samples.at(linear.input))
            .first(std::min(samples.at(linear.input).size(),
                            static_cast<size_t>(kErrorTokens * linear.cols)));
    RETURN_IF_ERROR(Measure(linear, weight, rows, of));
  }
  return absl::OkStatus();
}

}  // namespace quantd

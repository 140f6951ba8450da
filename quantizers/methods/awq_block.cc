#include "quantizers/methods/awq_block.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/methods/awq_factors.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

float Half(float value) { return InFloat16::Round(value); }

absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

std::string WeightOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".weight"); }
std::string BiasOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".bias"); }

const BlockLinear* Named(const CalibratedBlock& block, absl::string_view suffix) {
  for (const BlockLinear& linear : block.linears()) {
    if (absl::EndsWith(linear.module, suffix)) return &linear;
  }
  return nullptr;
}

// "model.layers.3." of "model.layers.3.self_attn.q_proj".
std::string BlockPrefix(const std::string& module) {
  const size_t last = module.rfind('.');
  const size_t second = last == std::string::npos ? last : module.rfind('.', last - 1);
  return second == std::string::npos ? "" : module.substr(0, second + 1);
}

// How many matrices, of as many rows each, `module` stacks.
int64_t StackedIn(absl::string_view module) {
  if (absl::EndsWith(module, "qkv_proj")) return 3;
  return absl::EndsWith(module, "gate_up_proj") ? 2 : 1;
}

// get_layers_for_scaling of the llama family.
std::vector<AwqGroup> GroupsOf(const CalibratedBlock& block) {
  std::vector<AwqGroup> groups = {
      {BlockValue::kAttentionInput, BlockValue::kAttentionOutput, {}, "input_layernorm"},
      {BlockValue::kAttended, BlockValue::kAttentionOutput, {}, ""},
      {BlockValue::kMlpInput, BlockValue::kMlpOutput, {}, "post_attention_layernorm"},
      {BlockValue::kMlpHidden, BlockValue::kMlpOutput, {}, ""}};
  for (const BlockLinear& linear : block.linears()) {
    for (AwqGroup& group : groups) {
      if (group.from == linear.input) group.linears.push_back(&linear);
    }
  }
  for (AwqGroup& group : groups) {
    if (group.linears.empty()) continue;
    if (!group.norm.empty()) {
      group.norm = BlockPrefix(group.linears.front()->module) + group.norm;
      continue;
    }
    group.earlier = Named(block, group.from == BlockValue::kAttended ? "v_proj" : "up_proj");
    const BlockLinear& reader = *group.linears.front();
    // Upstream's condition for values: with grouped queries one row would need several factors. It
    // has none for the last rows of a stack, which are not all values then, and spoils them.
    const int64_t rows =
        group.earlier != nullptr ? group.earlier->rows / StackedIn(group.earlier->module) : 0;
    const bool fits = rows == reader.cols &&
                      group.earlier->rows == rows * StackedIn(group.earlier->module) &&
                      (group.from != BlockValue::kAttended ||
                       (rows == reader.rows && group.earlier->cols == reader.cols));
    if (!fits) group.linears.clear();
  }
  std::erase_if(groups, [](const AwqGroup& group) { return group.linears.empty(); });
  return groups;
}

void DivideBy(std::span<const float> factors, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) values[i] = Half(values[i] / factors[i]);
}

// apply_scale: columns times the factors, the previous operation by their inverse.
void Fold(CalibratedBlock& block, const AwqGroup& group) {
  if (group.factors.empty()) return;
  for (const BlockLinear* linear : group.linears) {
    HalfMatrix weight = HalfWeightOf(block, *linear);
    ScaleColumns(group.factors, &weight);
    std::ranges::copy(weight.values, block.Parameter(WeightOf(*linear)).begin());
  }
  if (group.earlier == nullptr) {
    DivideBy(group.factors, block.Parameter(absl::StrCat(group.norm, ".weight")));
    DivideBy(group.factors, block.Parameter(absl::StrCat(group.norm, ".bias")));
    return;
  }
  // Of a stack, the last rows: values, up.
  const int64_t cols = group.earlier->cols;
  const size_t rows = group.factors.size();
  const std::span<float> weight =
      block.Parameter(WeightOf(*group.earlier)).last(rows * static_cast<size_t>(cols));
  for (size_t i = 0; i < weight.size(); ++i) {
    weight[i] = Half(weight[i] / group.factors[i / static_cast<size_t>(cols)]);
  }
  const std::span<float> bias = block.Parameter(BiasOf(*group.earlier));
  if (!bias.empty()) DivideBy(group.factors, bias.last(rows));
}

}  // namespace

bool IsClippedByAwq(absl::string_view module) {
  for (const char* part : {"q_", "k_", "query", "key", "Wqkv"}) {
    if (absl::StrContains(module, part)) return false;
  }
  return true;
}

absl::StatusOr<QuantizedTensor> QuantizeByAwq(HalfMatrix weight, const AwqOptions& options,
                                              bool clip, const InputStats& inputs) {
  if (clip && options.apply_clip && !inputs.samples.empty()) {
    std::vector<float> samples(inputs.samples.begin(), inputs.samples.end());
    RoundToHalf(samples);
    ASSIGN_OR_RETURN(const std::vector<float> limits,
                     SearchClip(weight, options.spec, samples, [&] { return inputs.stopped(); }));
    ApplyClip(options.spec, limits, &weight);
  }
  ASSIGN_OR_RETURN(QuantizedTensor out, QuantizeAwq(weight, options.spec));
  SpellAwq(options.version, &out);
  return out;
}

absl::StatusOr<std::map<std::string, QuantizedTensor>> AwqBlockSolver::Solve(
    CalibratedBlock& block, const BlockInputs& inputs,
    const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const {
  for (const BlockLinear& linear : block.linears()) {
    RoundToHalf(block.Parameter(WeightOf(linear)));
    RoundToHalf(block.Parameter(BiasOf(linear)));
  }
  std::vector<AwqGroup> groups;
  if (options_.apply_scale && !block.is_encoder()) groups = GroupsOf(block);
  std::erase_if(groups, [&](const AwqGroup& group) {
    return std::ranges::none_of(
        group.linears, [&](const BlockLinear* linear) { return schemes.contains(linear->module); });
  });
  std::vector<AwqGroupInputs::Shape> shapes;
  shapes.reserve(groups.size());
  for (const AwqGroup& group : groups) shapes.push_back({group.from, group.linears.front()->cols});
  AwqSamples samples;
  if (options_.apply_clip || !groups.empty()) {
    ASSIGN_OR_RETURN(AwqInputs read,
                     CollectAwqInputs(block, inputs, shapes, options_.apply_clip, control));
    samples = std::move(read.samples);
    // All searches see the block as it was.
    for (size_t i = 0; i < groups.size(); ++i) {
      RETURN_IF_ERROR(
          SearchAwqFactors(block, inputs, std::move(read.groups[i]), options_, control, groups[i]));
    }
  }
  for (const AwqGroup& group : groups) {
    Fold(block, group);
    if (group.factors.empty()) continue;
    std::vector<float>& sample = samples[static_cast<size_t>(group.from)];
    for (size_t i = 0; i < sample.size(); ++i) {
      sample[i] = Half(sample[i] / group.factors[i % group.factors.size()]);
    }
  }
  // Runs that were told to stop have given values that mean nothing.
  if (control.stopped && control.stopped()) return Cancelled();
  std::map<std::string, QuantizedTensor> out;
  for (const BlockLinear& linear : block.linears()) {
    if (!schemes.contains(linear.module)) continue;
    InputStats stats;
    stats.samples = samples[static_cast<size_t>(linear.input)];
    stats.control = &control;
    ASSIGN_OR_RETURN(out[linear.module], QuantizeByAwq(HalfWeightOf(block, linear), options_,
                                                       IsClippedByAwq(linear.module), stats));
  }
  return out;
}

}  // namespace quantd

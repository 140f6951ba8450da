#include "quantizers/methods/awq_block.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/codecs/awq.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int64_t kSampleTokens = 512;  // n_sample_token

float Half(float value) { return InFloat16::Round(value); }

void RoundToHalf(std::span<float> values) {
  for (float& value : values) value = Half(value);
}

absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

std::string WeightOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".weight"); }
std::string BiasOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".bias"); }

HalfMatrix MatrixOf(CalibratedBlock& block, const BlockLinear& linear) {
  const std::span<float> values = block.Parameter(WeightOf(linear));
  return {linear.rows, linear.cols, {values.begin(), values.end()}};
}

// What is scaled together: linears that multiply the same values, whose inverse factors go into a
// norm or into the rows of an earlier linear.
struct Group {
  BlockValue from;
  BlockValue until;
  std::vector<const BlockLinear*> linears;
  std::string norm;                      // full name without ".weight"; or
  const BlockLinear* earlier = nullptr;  // its rows are the linears' columns
  std::vector<float> factors;
};

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

// get_layers_for_scaling of the llama family.
std::vector<Group> GroupsOf(const CalibratedBlock& block) {
  std::vector<Group> groups = {
      {BlockValue::kAttentionInput, BlockValue::kAttentionOutput, {}, "input_layernorm"},
      {BlockValue::kAttended, BlockValue::kAttentionOutput, {}, ""},
      {BlockValue::kMlpInput, BlockValue::kMlpOutput, {}, "post_attention_layernorm"},
      {BlockValue::kMlpHidden, BlockValue::kMlpOutput, {}, ""}};
  for (const BlockLinear& linear : block.linears()) {
    for (Group& group : groups) {
      if (group.from == linear.input) group.linears.push_back(&linear);
    }
  }
  for (Group& group : groups) {
    if (group.linears.empty()) continue;
    if (!group.norm.empty()) {
      group.norm = BlockPrefix(group.linears.front()->module) + group.norm;
      continue;
    }
    group.earlier = Named(block, group.from == BlockValue::kAttended ? "v_proj" : "up_proj");
    const BlockLinear& reader = *group.linears.front();
    // Upstream's condition for values: with grouped queries one row would need several factors.
    const bool fits = group.earlier != nullptr && group.earlier->rows == reader.cols &&
                      (group.from != BlockValue::kAttended ||
                       (group.earlier->rows == reader.rows && group.earlier->cols == reader.cols));
    if (!fits) group.linears.clear();
  }
  std::erase_if(groups, [](const Group& group) { return group.linears.empty(); });
  return groups;
}

// The values that one kind of linear reads, of all sequences, and what the block makes of them.
struct StageData {
  std::vector<std::vector<float>> inputs;      // by sequence, float16 values
  std::vector<std::vector<float>> references;  // the same
  std::vector<float> mean_magnitude;           // [cols]
};

absl::StatusOr<StageData> Collect(CalibratedBlock& block, const BlockInputs& inputs,
                                  const Group& group, SolverControl& control) {
  StageData data;
  const int64_t cols = group.linears.front()->cols;
  std::vector<double> sums(static_cast<size_t>(cols));
  int64_t tokens = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) {
    if (control.stopped && control.stopped()) return Cancelled();
    ASSIGN_OR_RETURN(const std::vector<float> hidden, inputs.Read(s));
    BlockPass pass = block.Run(BlockValue::kInput, hidden, group.until);
    std::vector<float>& values = pass[group.from];
    RoundToHalf(values);
    for (size_t i = 0; i < values.size(); ++i) sums[i % sums.size()] += std::abs(values[i]);
    tokens += pass.tokens;
    data.references.push_back(block.Run(group.from, values, group.until)[group.until]);
    data.inputs.push_back(std::move(values));
  }
  for (const double sum : sums) {
    data.mean_magnitude.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
  }
  return data;
}

double LossOf(CalibratedBlock& block, const Group& group, const StageData& data) {
  double loss = 0;
  for (size_t s = 0; s < data.inputs.size(); ++s) {
    const BlockPass pass = block.Run(group.from, data.inputs[s], group.until);
    const std::vector<float>& found = pass[group.until];
    double sum = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double difference = found[i] - data.references[s][i];
      sum += difference * difference;
    }
    loss += sum;
  }
  return loss;
}

// _search_best_scale: the factors whose rounded weights change the output least. The weights are
// as before when it returns.
absl::Status SearchGroup(CalibratedBlock& block, const BlockInputs& inputs,
                         const AwqOptions& options, SolverControl& control, Group& group) {
  ASSIGN_OR_RETURN(const StageData data, Collect(block, inputs, group, control));
  std::vector<HalfMatrix> weights;
  std::vector<const HalfMatrix*> pointers;
  for (const BlockLinear* linear : group.linears) weights.push_back(MatrixOf(block, *linear));
  for (const HalfMatrix& weight : weights) pointers.push_back(&weight);
  const std::vector<float> columns = AwqColumnMagnitude(pointers, options.spec);
  double least = std::numeric_limits<double>::infinity();
  const auto restore = [&] {
    for (size_t i = 0; i < weights.size(); ++i) {
      std::ranges::copy(weights[i].values, block.Parameter(WeightOf(*group.linears[i])).begin());
    }
  };
  for (int step = 0; step < kAwqRatios; ++step) {
    if (control.stopped && control.stopped()) {
      restore();
      return Cancelled();
    }
    std::vector<float> factors =
        AwqFactors(data.mean_magnitude, columns, step, options.duo_scaling);
    for (size_t i = 0; i < weights.size(); ++i) {
      const HalfMatrix tried = QuantizedWithFactors(weights[i], options.spec, factors);
      std::ranges::copy(tried.values, block.Parameter(WeightOf(*group.linears[i])).begin());
    }
    const double loss = LossOf(block, group, data);
    if (!(loss < least)) continue;
    least = loss;
    group.factors = std::move(factors);
  }
  restore();
  if (group.factors.empty()) {
    control.warnings.push_back(absl::StrCat(group.linears.front()->module,
                                            ": not scaled: no factors give finite outputs"));
  }
  return absl::OkStatus();
}

void DivideBy(std::span<const float> factors, std::span<float> values) {
  for (size_t i = 0; i < values.size(); ++i) values[i] = Half(values[i] / factors[i]);
}

// apply_scale: columns times the factors, the previous operation by their inverse.
void Fold(CalibratedBlock& block, const Group& group) {
  if (group.factors.empty()) return;
  for (const BlockLinear* linear : group.linears) {
    HalfMatrix weight = MatrixOf(block, *linear);
    ScaleColumns(group.factors, &weight);
    std::ranges::copy(weight.values, block.Parameter(WeightOf(*linear)).begin());
  }
  if (group.earlier == nullptr) {
    DivideBy(group.factors, block.Parameter(absl::StrCat(group.norm, ".weight")));
    DivideBy(group.factors, block.Parameter(absl::StrCat(group.norm, ".bias")));
    return;
  }
  const std::span<float> weight = block.Parameter(WeightOf(*group.earlier));
  const int64_t cols = group.earlier->cols;
  for (size_t i = 0; i < weight.size(); ++i) {
    weight[i] = Half(weight[i] / group.factors[i / static_cast<size_t>(cols)]);
  }
  DivideBy(group.factors, block.Parameter(BiasOf(*group.earlier)));
}

// Inputs of every kind of linear, some 512 tokens of all sequences in equal steps.
using Samples = std::array<std::vector<float>, kBlockValues>;

absl::StatusOr<Samples> CollectSamples(CalibratedBlock& block, const BlockInputs& inputs,
                                       SolverControl& control) {
  int64_t tokens = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) tokens += inputs.tokens(s);
  const int64_t step = std::max<int64_t>(1, tokens / kSampleTokens);
  Samples samples;
  int64_t first = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) {
    if (control.stopped && control.stopped()) return Cancelled();
    ASSIGN_OR_RETURN(const std::vector<float> hidden, inputs.Read(s));
    const BlockPass pass = block.Run(BlockValue::kInput, hidden, BlockValue::kMlpHidden);
    for (const BlockLinear& linear : block.linears()) {
      std::vector<float>& sample = samples[static_cast<size_t>(linear.input)];
      // Linears that read the same values take them once: the first of them.
      const auto first_reader =
          std::ranges::find(block.linears(), linear.input, &BlockLinear::input);
      if (&*first_reader != &linear) continue;
      const std::vector<float>& values = pass[linear.input];
      for (int64_t t = (step - first % step) % step; t < pass.tokens; t += step) {
        for (int64_t c = 0; c < linear.cols; ++c) {
          sample.push_back(Half(values[t * linear.cols + c]));
        }
      }
    }
    first += pass.tokens;
  }
  return samples;
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
  std::vector<Group> groups;
  if (options_.apply_scale && !block.is_encoder()) groups = GroupsOf(block);
  Samples samples;
  if (options_.apply_clip) {
    ASSIGN_OR_RETURN(samples, CollectSamples(block, inputs, control));
  }
  // All searches see the block as it was.
  for (Group& group : groups) {
    const bool any = std::ranges::any_of(
        group.linears, [&](const BlockLinear* linear) { return schemes.contains(linear->module); });
    if (any) RETURN_IF_ERROR(SearchGroup(block, inputs, options_, control, group));
  }
  for (const Group& group : groups) {
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
    ASSIGN_OR_RETURN(out[linear.module], QuantizeByAwq(MatrixOf(block, linear), options_,
                                                       IsClippedByAwq(linear.module), stats));
  }
  return out;
}

}  // namespace quantd

#include "quantizers/methods/awq_block.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

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

// |a - b|^2, in slices that are added in order.
double SquaredDistance(const std::vector<float>& a, const std::vector<float>& b) {
  constexpr size_t kSlice = 1 << 14, kLanes = 16;
  std::vector<double> sums((a.size() + kSlice - 1) / kSlice);
  const auto add = [&](int64_t slice) {
    double lanes[kLanes] = {};
    const size_t begin = static_cast<size_t>(slice) * kSlice;
    const size_t end = std::min(a.size(), begin + kSlice);
    for (size_t i = begin; i < end; i += kLanes) {
      for (size_t k = 0; k < std::min(kLanes, end - i); ++k) {
        const double difference = a[i + k] - b[i + k];
        lanes[k] += difference * difference;
      }
    }
    sums[static_cast<size_t>(slice)] = std::accumulate(lanes, lanes + kLanes, 0.0);
  };
  ParallelFor(static_cast<int64_t>(sums.size()), add, 1e-5);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// _search_best_scale: the factors whose rounded weights change the output least. The weights are
// as before when it is gone.
class FactorSearch {
 public:
  FactorSearch(CalibratedBlock& block, const AwqOptions& options, const Group& group,
               StageData data)
      : block_(block), options_(options), group_(group), data_(std::move(data)) {
    for (const BlockLinear* linear : group.linears) weights_.push_back(MatrixOf(block, *linear));
    std::vector<const HalfMatrix*> pointers;
    for (const HalfMatrix& weight : weights_) pointers.push_back(&weight);
    columns_ = AwqColumnMagnitude(pointers, options.spec);
  }
  ~FactorSearch() {
    for (size_t i = 0; i < weights_.size(); ++i) Put(i, weights_[i]);
  }
  FactorSearch(const FactorSearch&) = delete;
  FactorSearch& operator=(const FactorSearch&) = delete;

  // Empty where no factors give finite outputs. Losses are sums over the sequences, so factors are
  // given up as soon as theirs is above the least; the first sequence says who is tried first.
  absl::StatusOr<std::vector<float>> Best(SolverControl& control) {
    std::vector<Candidate> candidates;
    for (int step = 0; step < kAwqRatios; ++step) {
      if (control.stopped && control.stopped()) return Cancelled();
      candidates.push_back({step, Factors(step), 0});
      Try(candidates.back());
      AddLosses(0, 1, std::numeric_limits<double>::infinity(), candidates.back());
    }
    std::ranges::stable_sort(candidates, {}, [](const Candidate& c) {
      return std::isnan(c.loss) ? std::numeric_limits<double>::infinity() : c.loss;
    });
    const Candidate* best = nullptr;
    double least = std::numeric_limits<double>::infinity();
    for (Candidate& candidate : candidates) {
      if (control.stopped && control.stopped()) return Cancelled();
      if (!(candidate.loss <= least)) continue;
      Try(candidate);
      AddLosses(1, data_.inputs.size(), least, candidate);
      const bool wins = candidate.loss < least ||
                        (best != nullptr && candidate.loss == least && candidate.step < best->step);
      if (!wins) continue;
      least = candidate.loss;
      best = &candidate;
    }
    return best == nullptr ? std::vector<float>() : best->factors;
  }

 private:
  struct Candidate {
    int step;
    std::vector<float> factors;
    double loss;  // so far
  };

  std::vector<float> Factors(int step) const {
    return AwqFactors(data_.mean_magnitude, columns_, step, options_.duo_scaling);
  }
  void Put(size_t i, const HalfMatrix& weight) {
    std::ranges::copy(weight.values, block_.Parameter(WeightOf(*group_.linears[i])).begin());
  }
  void Try(const Candidate& candidate) {
    for (size_t i = 0; i < weights_.size(); ++i) {
      Put(i, QuantizedWithFactors(weights_[i], options_.spec, candidate.factors));
    }
  }

  // Of the sequences [first, end), until it is above `least`.
  void AddLosses(size_t first, size_t end, double least, Candidate& candidate) {
    for (size_t s = first; s < end && !(candidate.loss > least); ++s) {
      for (std::vector<float>& values : pass_.values) values.clear();
      std::vector<float>& inputs = data_.inputs[s];
      pass_.tokens = static_cast<int64_t>(inputs.size()) / group_.linears.front()->cols;
      pass_[group_.from].swap(inputs);
      block_.Continue(pass_, group_.until);
      pass_[group_.from].swap(inputs);
      candidate.loss += SquaredDistance(pass_[group_.until], data_.references[s]);
    }
  }

  CalibratedBlock& block_;
  const AwqOptions& options_;
  const Group& group_;
  StageData data_;
  std::vector<HalfMatrix> weights_;
  std::vector<float> columns_;
  BlockPass pass_;
};

absl::Status SearchGroup(CalibratedBlock& block, const BlockInputs& inputs,
                         const AwqOptions& options, SolverControl& control, Group& group) {
  ASSIGN_OR_RETURN(StageData data, Collect(block, inputs, group, control));
  FactorSearch search(block, options, group, std::move(data));
  ASSIGN_OR_RETURN(group.factors, search.Best(control));
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

#include "quantizers/methods/awq_factors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "quantizers/input_statistics.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

std::string WeightOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".weight"); }

// The values that one kind of linear reads, of all sequences, and what the block makes of them.
struct StageData {
  std::vector<std::vector<float>> inputs;      // by sequence, float16 values
  std::vector<std::vector<float>> references;  // the same
  std::vector<float> mean_magnitude;           // [cols]
};

absl::StatusOr<StageData> Collect(CalibratedBlock& block, const BlockInputs& inputs,
                                  const AwqGroup& group, SolverControl& control) {
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
  FactorSearch(CalibratedBlock& block, const AwqOptions& options, const AwqGroup& group,
               StageData data)
      : block_(block), options_(options), group_(group), data_(std::move(data)) {
    for (const BlockLinear* linear : group.linears)
      weights_.push_back(HalfWeightOf(block, *linear));
    std::vector<const HalfMatrix*> pointers;
    for (const HalfMatrix& weight : weights_) pointers.push_back(&weight);
    columns_ = AwqColumnMagnitude(pointers, options.spec);
    FindGram();
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
    const Candidate* best = nullptr;  // of equal ones the first, as upstream
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

  // Where the group's outputs are one product X W^T, losses need X^T X alone: |X D^T|^2 is the sum
  // over D's rows of d X^T X d^T. Cheaper as soon as there are more tokens than columns.
  void FindGram() {
    const int64_t cols = group_.linears.front()->cols;
    int64_t tokens = 0;
    for (const auto& inputs : data_.inputs) tokens += static_cast<int64_t>(inputs.size()) / cols;
    const bool is_product =
        group_.from == BlockValue::kAttended || group_.from == BlockValue::kMlpHidden;
    if (!is_product || tokens < cols) return;
    InputStatistics statistics(cols, {.gram = true}, tokens);
    for (const auto& inputs : data_.inputs) {
      if (!statistics.Add(inputs).ok()) return;
    }
    if (!statistics.Finish().ok()) return;
    const std::span<const float> gram = statistics.View().gram;
    gram_.assign(gram.begin(), gram.end());
  }

  double LossByGram() const {
    const BlockLinear& linear = *group_.linears.front();
    const std::span<const float> tried = block_.Parameter(WeightOf(linear));
    std::vector<float> difference(tried.size()), product(tried.size());
    for (size_t i = 0; i < tried.size(); ++i) {
      difference[i] = tried[i] - weights_.front().values[i];
    }
    AddMatrixProduct(linear.rows, linear.cols, linear.cols, {difference.data(), linear.cols, 1},
                     {gram_.data(), linear.cols, 1}, product.data(), linear.cols);
    double loss = 0;
    for (size_t i = 0; i < product.size(); ++i) {
      loss += static_cast<double>(product[i]) * difference[i];
    }
    return loss;
  }

  // Of the sequences [first, end), until it is above `least`.
  void AddLosses(size_t first, size_t end, double least, Candidate& candidate) {
    if (!gram_.empty()) {
      if (first == 0) candidate.loss = LossByGram();
      return;
    }
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
  const AwqGroup& group_;
  StageData data_;
  std::vector<HalfMatrix> weights_;
  std::vector<float> columns_;
  std::vector<float> gram_;  // [cols, cols], or empty
  BlockPass pass_;
};

}  // namespace

HalfMatrix HalfWeightOf(CalibratedBlock& block, const BlockLinear& linear) {
  const std::span<float> values = block.Parameter(WeightOf(linear));
  return {linear.rows, linear.cols, {values.begin(), values.end()}};
}

void RoundToHalf(std::span<float> values) {
  for (float& value : values) value = InFloat16::Round(value);
}

absl::Status SearchAwqFactors(CalibratedBlock& block, const BlockInputs& inputs,
                              const AwqOptions& options, SolverControl& control, AwqGroup& group) {
  ASSIGN_OR_RETURN(StageData data, Collect(block, inputs, group, control));
  FactorSearch search(block, options, group, std::move(data));
  ASSIGN_OR_RETURN(group.factors, search.Best(control));
  if (group.factors.empty()) {
    control.warnings.push_back(absl::StrCat(group.linears.front()->module,
                                            ": not scaled: no factors give finite outputs"));
  }
  return absl::OkStatus();
}

}  // namespace quantd

#include "quantizers/methods/awq_factors.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "kernels/rounded_product.h"
#include "quantizers/input_statistics.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

std::string WeightOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".weight"); }

// The values that one kind of linear reads, of all sequences: X [tokens, cols].
struct StageData {
  std::vector<float> mean_magnitude;  // [cols]
  SequenceStore inputs;               // float16 values; or
  std::vector<float> gram;            // X^T X [cols, cols]
  bool is_finite = true;
};

// Where the group's outputs are one product X W^T, losses need X^T X alone: |X D^T|^2 is the sum
// over D's rows of d X^T X d^T. Cheaper as soon as there are more tokens than columns.
bool NeedsGramAlone(const AwqGroup& group, int64_t tokens) {
  const bool is_product =
      group.from == BlockValue::kAttended || group.from == BlockValue::kMlpHidden;
  return is_product && tokens >= group.linears.front()->cols;
}

absl::StatusOr<StageData> Collect(CalibratedBlock& block, const BlockInputs& inputs,
                                  const AwqGroup& group, SolverControl& control) {
  const int64_t cols = group.linears.front()->cols;
  int64_t tokens = 0;
  for (int64_t s = 0; s < inputs.sequences(); ++s) tokens += inputs.tokens(s);
  const bool by_gram = NeedsGramAlone(group, tokens);
  StageData data = {.inputs = inputs.Store("awq-inputs")};
  InputStatistics statistics(cols, {.gram = by_gram}, tokens, block.device());
  std::vector<double> sums(static_cast<size_t>(cols));
  for (int64_t s = 0; s < inputs.sequences(); ++s) {
    if (control.stopped && control.stopped()) return Cancelled();
    ASSIGN_OR_RETURN(const FloatBuffer hidden, inputs.Read(s));
    BlockPass pass = block.Run(BlockValue::kInput, hidden, group.from);
    FloatBuffer& values = pass[group.from];
    RoundToHalf(values);
    for (int64_t t = 0; t < pass.tokens; ++t) {
      for (int64_t c = 0; c < cols; ++c) sums[c] += std::abs(values[t * cols + c]);
    }
    if (!by_gram) {
      RETURN_IF_ERROR(data.inputs.Append(std::move(values)));
    } else if (data.is_finite) {
      const absl::Status added = statistics.Add(values);
      data.is_finite = !absl::IsInvalidArgument(added);  // not beyond float16
      if (data.is_finite) RETURN_IF_ERROR(added);
    }
  }
  for (const double sum : sums) {
    data.mean_magnitude.push_back(static_cast<float>(sum / static_cast<double>(tokens)));
  }
  if (by_gram && data.is_finite) {
    const absl::Status finished = statistics.Finish();
    data.is_finite = !absl::IsInvalidArgument(finished);
    if (data.is_finite) RETURN_IF_ERROR(finished);
    const std::span<const float> gram = statistics.View().gram;
    data.gram.assign(gram.begin(), gram.end());
  }
  return data;
}

// |a - b|^2, in slices that are added in order.
double SquaredDistance(const FloatBuffer& a, const FloatBuffer& b) {
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
               StageData data, SequenceStore references)
      : block_(block),
        options_(options),
        group_(group),
        data_(std::move(data)),
        references_(std::move(references)) {
    for (const BlockLinear* linear : group.linears)
      weights_.push_back(HalfWeightOf(block, *linear));
    std::vector<const HalfMatrix*> pointers;
    for (const HalfMatrix& weight : weights_) pointers.push_back(&weight);
    columns_ = AwqColumnMagnitude(pointers, options.spec);
  }
  ~FactorSearch() {
    for (size_t i = 0; i < weights_.size(); ++i) Put(i, weights_[i]);
  }
  FactorSearch(const FactorSearch&) = delete;
  FactorSearch& operator=(const FactorSearch&) = delete;

  // Empty where no factors give finite outputs. All are tried with products of rounded operands,
  // many times as fast; those that come near the best are told apart in float32.
  absl::StatusOr<std::vector<float>> Best(SolverControl& control) {
    std::vector<Candidate> candidates;
    for (int step = 0; step < kAwqRatios; ++step) candidates.push_back({step, Factors(step), 0});
    Rank(true);
    const absl::Status status = TryAll(near(), control, candidates);
    Rank(false);
    RETURN_IF_ERROR(status);
    const double least = candidates.front().loss;
    std::erase_if(candidates, [&](const Candidate& c) { return !(c.loss <= least * near()); });
    if (candidates.size() > 1) RETURN_IF_ERROR(TryAll(1, control, candidates));
    return candidates.empty() ? std::vector<float>() : std::move(candidates.front().factors);
  }

 private:
  struct Candidate {
    int step;
    std::vector<float> factors;
    double loss;  // so far
  };

  // Attention's weights, of which a few are large, would lose too much to int8.
  ProductRounding rounding() const {
    return group_.from == BlockValue::kAttentionInput ? ProductRounding::kBFloat16
                                                      : ProductRounding::kInt8;
  }
  // Of two losses near the least, those of rounded products are to each other as those of float32
  // within this factor. On SmolLM2's layers those by the gram matrix were within 1.002, others of
  // int8, to all of which rounding adds about the same, within 1.009, of bfloat16 within 1.003.
  double near() const {
    if (!data_.gram.empty()) return 1.005;
    return rounding() == ProductRounding::kInt8 ? 1.025 : 1.01;
  }

  // Losses of the candidates, the least first, of equal ones the first step, as upstream. Losses
  // are sums over the sequences: factors are given up, with a loss of infinity, as soon as theirs
  // is above `near` times the least; the first sequence says who is tried first.
  absl::Status TryAll(double near, SolverControl& control, std::vector<Candidate>& candidates) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const auto sort = [&candidates] {
      std::ranges::sort(candidates, [](const Candidate& a, const Candidate& b) {
        return std::pair(a.loss, a.step) < std::pair(b.loss, b.step);
      });
    };
    RETURN_IF_ERROR(MakeReferences(control));
    leader_.clear();
    for (Candidate& candidate : candidates) {
      if (control.stopped && control.stopped()) return Cancelled();
      Try(candidate);
      candidate.loss = 0;
      RETURN_IF_ERROR(AddLosses(0, 1, kInfinity, candidate));
      if (std::isnan(candidate.loss)) candidate.loss = kInfinity;
    }
    sort();
    double most = kInfinity;
    for (Candidate& candidate : candidates) {
      if (control.stopped && control.stopped()) return Cancelled();
      const bool has_hope = candidate.loss < kInfinity && !IsHopeless(0, candidate.loss);
      if (candidate.loss <= most && has_hope) {
        Try(candidate);
        RETURN_IF_ERROR(AddLosses(1, data_.inputs.size(), most, candidate));
      }
      if (!(has_hope && candidate.loss <= most)) candidate.loss = kInfinity;
      most = std::min(most, candidate.loss * near);
      if (leader_.empty()) leader_ = so_far_;
    }
    sort();
    return absl::OkStatus();
  }

  // While ranking: whether a loss after `sequence` is so far above that of the candidate which the
  // first sequence likes best, after the same sequences, that the rest will not make up for it.
  bool IsHopeless(size_t sequence, double loss) const {
    if (!is_ranking_ || sequence >= leader_.size()) return false;
    return loss > leader_[sequence] * (1 + 0.4 / static_cast<double>(sequence + 1));
  }

  void Rank(bool on) {
    is_ranking_ = on;
    block_.SetRounding(on ? std::optional(rounding()) : std::nullopt);
    if (!on || data_.gram.empty()) return;
    const int64_t cols = group_.linears.front()->cols;
    packed_gram_.Pack(rounding(), ProductSide::kRight, data_.gram.data(), cols, cols);
  }

  // What the block makes of the sequences with the original weights, and the same products.
  absl::Status MakeReferences(SolverControl& control) {
    if (!data_.gram.empty()) return absl::OkStatus();
    for (size_t i = 0; i < weights_.size(); ++i) Put(i, weights_[i]);
    references_.Clear();
    for (size_t s = 0; s < data_.inputs.size(); ++s) {
      if (control.stopped && control.stopped()) return Cancelled();
      RETURN_IF_ERROR(RunSequence(s));
      RETURN_IF_ERROR(references_.Append(pass_[group_.until]));
    }
    return absl::OkStatus();
  }

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

  double LossByGram() {
    const BlockLinear& linear = *group_.linears.front();
    const std::span<const float> tried = block_.Parameter(WeightOf(linear));
    FloatBuffer difference(tried.size()), product(tried.size(), 0.0f);
    for (size_t i = 0; i < tried.size(); ++i) {
      difference[i] = tried[i] - weights_.front().values[i];
    }
    if (is_ranking_) {
      difference_.Pack(rounding(), ProductSide::kLeft, difference.data(), linear.rows, linear.cols);
      MultiplyRounded(difference_, packed_gram_, {0, linear.rows, linear.cols}, false,
                      product.data(), linear.cols);
    } else {
      AddMatrixProduct(linear.rows, linear.cols, linear.cols, {difference.data(), linear.cols, 1},
                       {data_.gram.data(), linear.cols, 1}, product.data(), linear.cols);
    }
    double loss = 0;
    for (size_t i = 0; i < product.size(); ++i) {
      loss += static_cast<double>(product[i]) * difference[i];
    }
    return loss;
  }

  // Of the sequences [first, end), until it is above `least`.
  absl::Status AddLosses(size_t first, size_t end, double least, Candidate& candidate) {
    if (!data_.gram.empty()) {
      if (first == 0) candidate.loss = LossByGram();
      return absl::OkStatus();
    }
    so_far_.assign(first, candidate.loss);
    for (size_t s = first; s < end && !(candidate.loss > least); ++s) {
      RETURN_IF_ERROR(RunSequence(s));
      RETURN_IF_ERROR(references_.Take(s, reference_));
      candidate.loss += SquaredDistance(pass_[group_.until], reference_);
      references_.Return(s, reference_);
      so_far_.push_back(candidate.loss);
      if (IsHopeless(s, candidate.loss)) candidate.loss = std::numeric_limits<double>::infinity();
    }
    return absl::OkStatus();
  }

  // pass_ becomes what the block makes of a sequence with the weights as they are.
  absl::Status RunSequence(size_t s) {
    for (FloatBuffer& values : pass_.values) values.clear();
    FloatBuffer& inputs = pass_[group_.from];
    RETURN_IF_ERROR(data_.inputs.Take(s, inputs));
    pass_.tokens = static_cast<int64_t>(inputs.size()) / group_.linears.front()->cols;
    block_.Continue(pass_, group_.until);
    data_.inputs.Return(s, inputs);
    return absl::OkStatus();
  }

  CalibratedBlock& block_;
  const AwqOptions& options_;
  const AwqGroup& group_;
  StageData data_;
  std::vector<HalfMatrix> weights_;
  std::vector<float> columns_;
  BlockPass pass_;
  bool is_ranking_ = false;
  SequenceStore references_;
  std::vector<double> so_far_, leader_;  // losses after each sequence: of the last tried, the first
  FloatBuffer reference_;
  RoundedOperand packed_gram_, difference_;
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
  if (data.is_finite) {
    FactorSearch search(block, options, group, std::move(data), inputs.Store("awq-outputs"));
    ASSIGN_OR_RETURN(group.factors, search.Best(control));
  }
  if (group.factors.empty()) {
    control.warnings.push_back(absl::StrCat(group.linears.front()->module,
                                            ": not scaled: no factors give finite outputs"));
  }
  return absl::OkStatus();
}

}  // namespace quantd

#include "quantizers/methods/awq_factors.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"
#include "kernels/rounded_product.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

std::string WeightOf(const BlockLinear& linear) { return absl::StrCat(linear.module, ".weight"); }

// The sum of term(i), i < count, in slices that are added in order.
template <class Term>
double Sum(size_t count, const Term& term) {
  constexpr size_t kSlice = 1 << 14, kLanes = 16;
  std::vector<double> sums((count + kSlice - 1) / kSlice);
  const auto add = [&](int64_t slice) {
    double lanes[kLanes] = {};
    const size_t begin = static_cast<size_t>(slice) * kSlice;
    const size_t end = std::min(count, begin + kSlice);
    for (size_t i = begin; i < end; i += kLanes) {
      for (size_t k = 0; k < std::min(kLanes, end - i); ++k) {
        lanes[k] += term(i + k);
      }
    }
    sums[static_cast<size_t>(slice)] = std::accumulate(lanes, lanes + kLanes, 0.0);
  };
  ParallelFor(static_cast<int64_t>(sums.size()), add, 1e-5);
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

// What the block computes of the sequences with the original weights, from where a group reads to
// where it is judged.
class References {
 public:
  explicit References(const BlockInputs& inputs) : outputs_(inputs.Store("awq-outputs")) {
    for (int i = 0; i < kOnTheWay; ++i) {
      on_the_way_.push_back(inputs.Store(absl::StrCat("awq-on-the-way-", i),
                                         SequenceStore::kMemoryBytes / kOnTheWay));
    }
  }

  absl::Status Append(BlockPass& pass, BlockValue from, BlockValue until) {
    RETURN_IF_ERROR(outputs_.Append(std::move(pass[until])));
    std::array<FloatBuffer*, kOnTheWay> values = OnTheWay(pass, from);
    for (size_t i = 0; i < values.size(); ++i) {
      RETURN_IF_ERROR(
          on_the_way_[i].Append(values[i] != nullptr ? std::move(*values[i]) : FloatBuffer()));
    }
    return absl::OkStatus();
  }
  SequenceStore& outputs() { return outputs_; }
  // Into the pass, and back.
  absl::Status Take(size_t sequence, BlockValue from, BlockPass& pass) {
    std::array<FloatBuffer*, kOnTheWay> values = OnTheWay(pass, from);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != nullptr) RETURN_IF_ERROR(on_the_way_[i].Take(sequence, *values[i]));
    }
    return absl::OkStatus();
  }
  void Return(size_t sequence, BlockValue from, BlockPass& pass) {
    std::array<FloatBuffer*, kOnTheWay> values = OnTheWay(pass, from);
    for (size_t i = 0; i < values.size(); ++i) {
      if (values[i] != nullptr) on_the_way_[i].Return(sequence, *values[i]);
    }
  }

 private:
  static constexpr int kOnTheWay = 6;
  // What Change reads of a reference beside the values at `from`; null: nothing.
  static std::array<FloatBuffer*, kOnTheWay> OnTheWay(BlockPass& pass, BlockValue from) {
    if (from == BlockValue::kAttentionInput) {
      return {&pass.q, &pass.k, &pass.v, &pass.raw_q, &pass.raw_k, &pass[BlockValue::kAttended]};
    }
    if (from == BlockValue::kMlpInput) return {&pass.gate, &pass.up};
    return {};
  }

  SequenceStore outputs_;
  std::vector<SequenceStore> on_the_way_;
};

// _search_best_scale: the factors whose rounded weights change the output least. The weights are
// as before when it is gone.
class FactorSearch {
 public:
  FactorSearch(CalibratedBlock& block, const AwqOptions& options, const AwqGroup& group,
               AwqGroupInputs data, References references)
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

  // Empty where no factors give finite outputs. All are tried with rounded products of what they
  // change, many times as fast; those that come near the best are told apart in float32.
  absl::StatusOr<std::vector<float>> Best(SolverControl& control) {
    std::vector<Candidate> candidates;
    candidates.reserve(kAwqRatios);
    for (int step = 0; step < kAwqRatios; ++step) candidates.push_back({step, Factors(step), 0});
    RETURN_IF_ERROR(MakeReferences(control));
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

  // Attention's weights, of which a few are large, would lose too much.
  static constexpr BlockRounding kRanking = {.linears = ProductRounding::kInt8,
                                             .attention = std::nullopt};
  // Of two losses near the least, those of rounded products are to each other as those of float32
  // within this factor: more than twice what it was on SmolLM2's layers.
  double near() const { return data_.gram().empty() ? 1.003 : 1.005; }

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
        RETURN_IF_ERROR(AddLosses(1, data_.sequences().size(), most, candidate));
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
    return loss > leader_[sequence] * (1 + 0.25 / static_cast<double>(sequence + 1));
  }

  void Rank(bool on) {
    is_ranking_ = on;
    block_.SetRounding(on ? kRanking : BlockRounding());
    if (!on || data_.gram().empty()) return;
    const int64_t cols = group_.linears.front()->cols;
    packed_gram_.Pack(*kRanking.linears, ProductSide::kRight, data_.gram().data(), cols, cols);
  }

  // With the original weights, which the block holds.
  absl::Status MakeReferences(SolverControl& control) {
    if (!data_.gram().empty()) return absl::OkStatus();
    for (size_t s = 0; s < data_.sequences().size(); ++s) {
      if (control.stopped && control.stopped()) return Cancelled();
      RETURN_IF_ERROR(RunSequence(s));
      RETURN_IF_ERROR(references_.Append(pass_, group_.from, group_.until));
    }
    return absl::OkStatus();
  }

  std::vector<float> Factors(int step) const {
    return AwqFactors(data_.mean_magnitude(), columns_, step, options_.duo_scaling);
  }
  void Put(size_t i, const HalfMatrix& weight) {
    std::ranges::copy(weight.values, block_.Parameter(WeightOf(*group_.linears[i])).begin());
  }
  // The block's weights become the candidate's; while ranking, the changes by it, of which columns
  // that meet large inputs are the smallest: times the factors, by which inputs are divided, so
  // that neither are lost in rounding.
  void Try(const Candidate& candidate) {
    if (is_ranking_) {
      const size_t cols = candidate.factors.size();
      factors_ = data_.gram().empty() ? candidate.factors : std::vector<float>(cols, 1.0f);
    }
    for (size_t i = 0; i < weights_.size(); ++i) {
      const HalfMatrix tried = QuantizedWithFactors(weights_[i], options_.spec, candidate.factors);
      const std::span<float> to = block_.Parameter(WeightOf(*group_.linears[i]));
      const auto write = [&](int64_t row) {
        const float *from = tried.row(row), *original = weights_[i].row(row);
        for (int64_t c = 0; c < tried.cols; ++c) {
          to[row * tried.cols + c] = is_ranking_ ? (from[c] - original[c]) * factors_[c] : from[c];
        }
      };
      ParallelFor(tried.rows, write, static_cast<double>(tried.cols) * 1e-9);
    }
  }

  double LossByGram() {
    const BlockLinear& linear = *group_.linears.front();
    const std::span<const float> tried = block_.Parameter(WeightOf(linear));
    FloatBuffer product(tried.size(), 0.0f), difference;
    const float* change = tried.data();
    if (is_ranking_) {
      difference_.Pack(*kRanking.linears, ProductSide::kLeft, change, linear.rows, linear.cols);
      MultiplyRounded(difference_, packed_gram_, {0, linear.rows, linear.cols}, false,
                      product.data(), linear.cols);
    } else {
      difference.assign(tried.begin(), tried.end());
      for (size_t i = 0; i < tried.size(); ++i) difference[i] -= weights_.front().values[i];
      change = difference.data();
      AddMatrixProduct(linear.rows, linear.cols, linear.cols, {change, linear.cols, 1},
                       {data_.gram().data(), linear.cols, 1}, product.data(), linear.cols);
    }
    return Sum(product.size(), [&](size_t i) { return double{product[i]} * change[i]; });
  }

  // Of the sequences [first, end), until it is above `least`.
  absl::Status AddLosses(size_t first, size_t end, double least, Candidate& candidate) {
    if (!data_.gram().empty()) {
      if (first == 0) candidate.loss = LossByGram();
      return absl::OkStatus();
    }
    so_far_.assign(first, candidate.loss);
    for (size_t s = first; s < end && !(candidate.loss > least); ++s) {
      ASSIGN_OR_RETURN(const double loss, is_ranking_ ? RankedLoss(s) : Loss(s));
      candidate.loss += loss;
      so_far_.push_back(candidate.loss);
      if (IsHopeless(s, candidate.loss)) candidate.loss = std::numeric_limits<double>::infinity();
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> RankedLoss(size_t s) {
    const int64_t cols = group_.linears.front()->cols;
    RETURN_IF_ERROR(data_.sequences().Take(s, inputs_));
    pass_.tokens = static_cast<int64_t>(inputs_.size()) / cols;
    FloatBuffer& divided = pass_[group_.from];
    divided.resize(inputs_.size());
    const auto divide = [&](int64_t row) {
      for (int64_t c = 0; c < cols; ++c) {
        divided[row * cols + c] = inputs_[row * cols + c] / factors_[c];
      }
    };
    ParallelFor(pass_.tokens, divide, static_cast<double>(cols) * 1e-9);
    data_.sequences().Return(s, inputs_);
    RETURN_IF_ERROR(references_.Take(s, group_.from, pass_));
    block_.Change(pass_, group_.from, group_.until, change_);
    references_.Return(s, group_.from, pass_);
    return Sum(change_.size(), [this](size_t i) {
      const double change = change_[i];
      return change * change;
    });
  }
  absl::StatusOr<double> Loss(size_t s) {
    RETURN_IF_ERROR(RunSequence(s));
    RETURN_IF_ERROR(references_.outputs().Take(s, reference_));
    const FloatBuffer& output = pass_[group_.until];
    const double loss = Sum(output.size(), [&](size_t i) {
      const double difference = output[i] - reference_[i];
      return difference * difference;
    });
    references_.outputs().Return(s, reference_);
    return loss;
  }

  // pass_ becomes what the block makes of a sequence with the weights as they are.
  absl::Status RunSequence(size_t s) {
    for (FloatBuffer& values : pass_.values) values.clear();
    FloatBuffer& inputs = pass_[group_.from];
    RETURN_IF_ERROR(data_.sequences().Take(s, inputs));
    pass_.tokens = static_cast<int64_t>(inputs.size()) / group_.linears.front()->cols;
    block_.Continue(pass_, group_.until);
    data_.sequences().Return(s, inputs);
    return absl::OkStatus();
  }

  CalibratedBlock& block_;
  const AwqOptions& options_;
  const AwqGroup& group_;
  AwqGroupInputs data_;
  std::vector<HalfMatrix> weights_;
  std::vector<float> columns_;
  BlockPass pass_;
  bool is_ranking_ = false;
  References references_;
  std::vector<double> so_far_, leader_;  // losses after each sequence: of the last tried, the first
  FloatBuffer inputs_, reference_, change_;
  std::vector<float> factors_;  // of the candidate whose changes the block holds
  RoundedOperand packed_gram_, difference_;
};

}  // namespace

HalfMatrix HalfWeightOf(CalibratedBlock& block, const BlockLinear& linear) {
  const std::span<float> values = block.Parameter(WeightOf(linear));
  return {linear.rows, linear.cols, {values.begin(), values.end()}};
}

absl::Status SearchAwqFactors(CalibratedBlock& block, const BlockInputs& inputs,
                              AwqGroupInputs data, const AwqOptions& options,
                              SolverControl& control, AwqGroup& group) {
  if (data.is_finite()) {
    FactorSearch search(block, options, group, std::move(data), References(inputs));
    ASSIGN_OR_RETURN(group.factors, search.Best(control));
  }
  if (group.factors.empty()) {
    control.warnings.push_back(absl::StrCat(group.linears.front()->module,
                                            ": not scaled: no factors give finite outputs"));
  }
  return absl::OkStatus();
}

}  // namespace quantd

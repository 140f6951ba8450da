#include "quantizers/methods/autoround_block.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "core/parallel.h"
#include "core/stop_request.h"
#include "quantizers/codecs/autoround.h"
#include "quantizers/solvers/sign_round_tuner.h"

namespace quantd {
namespace {

// One linear in training.
struct Trained {
  std::string module;
  const AutoRoundSpelling* spelling;
  SignRoundTuner tuner;
  float rate;
  float range_rate;
};

std::string WeightOf(absl::string_view module) { return absl::StrCat(module, ".weight"); }

// Batches of all sequences in random order; a rest that is no whole batch is dealt anew
// (auto_round's IndexSampler).
class Sampler {
 public:
  Sampler(int64_t count, int64_t batch, int64_t seed)
      : random_(static_cast<uint64_t>(seed)),
        order_(static_cast<size_t>(count)),
        batch_(static_cast<size_t>(std::min(count, batch))) {
    std::iota(order_.begin(), order_.end(), 0);
    Shuffle();
  }

  std::span<const int64_t> Next() {
    if (next_ + batch_ > order_.size()) Shuffle();
    next_ += batch_;
    return {order_.data() + next_ - batch_, batch_};
  }

 private:
  // Not std::shuffle, whose result is the library's choice.
  void Shuffle() {
    for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_() % i]);
    next_ = 0;
  }

  std::mt19937_64 random_;
  std::vector<int64_t> order_;
  size_t batch_;
  size_t next_ = 0;
};

// The training of one block.
class Training {
 public:
  Training(CalibratedBlock& block, const BlockInputs& inputs, const AutoRoundTraining& training,
           SolverControl& control)
      : block_(block),
        inputs_(inputs),
        training_(training),
        control_(control),
        targets_(inputs.Store("training-targets")) {}

  void Add(const BlockLinear& linear, const AutoRoundScheme& scheme) {
    const int bits = scheme.spelling().spec.bits;
    const double iters = static_cast<double>(training_.iters);
    const double usual = training_.iters >= 1000 && bits <= 3 ? 2 / iters : 1 / iters;
    const double rate = training_.lr > 0 ? training_.lr : usual;
    const double range_rate = training_.minmax_lr > 0 ? training_.minmax_lr : rate;
    linears_.push_back({linear.module, &scheme.spelling(),
                        SignRoundTuner(block_.Parameter(WeightOf(linear.module)), linear.rows,
                                       linear.cols, scheme.spelling().spec),
                        static_cast<float>(rate),
                        training_.enable_minmax_tuning ? static_cast<float>(range_rate) : 0.0f});
    gradients_[linear.module];
  }

  // Outputs of the block as it is now: what the training aims at.
  absl::Status ReadTargets() {
    for (int64_t s = 0; s < inputs_.sequences(); ++s) {
      if (Stopped()) return Cancelled();
      if (inputs_.has_targets()) {
        ASSIGN_OR_RETURN(FloatBuffer target, inputs_.ReadTarget(s));
        hidden_size_ = static_cast<int64_t>(target.size()) / inputs_.tokens(s);
        RETURN_IF_ERROR(targets_.Append(std::move(target)));
        continue;
      }
      ASSIGN_OR_RETURN(const FloatBuffer hidden,
                       inputs_.Read(s, /*original=*/training_.enable_quanted_input));
      hidden_size_ = static_cast<int64_t>(hidden.size()) / inputs_.tokens(s);
      BlockPass pass = block_.Run(BlockValue::kInput, hidden, BlockValue::kOutput);
      RETURN_IF_ERROR(targets_.Append(std::move(pass[BlockValue::kOutput])));
    }
    return absl::OkStatus();
  }

  absl::Status Run() {
    block_.SetRounding(BlockRounding::Everywhere(training_.rounding));
    absl::Status status = Train();
    block_.SetRounding({});
    return status;
  }

  absl::StatusOr<std::map<std::string, QuantizedTensor>> Result() {
    std::map<std::string, QuantizedTensor> out;
    for (const Trained& linear : linears_) {
      if (Stopped()) return Cancelled();
      ASSIGN_OR_RETURN(QuantizedTensor weight, linear.tuner.Best());
      linear.spelling->Spell(&weight);
      std::ranges::copy(Dequantize(weight), block_.Parameter(WeightOf(linear.module)).begin());
      out.emplace(linear.module, std::move(weight));
    }
    return out;
  }

 private:
  bool Stopped() const { return control_.stopped && control_.stopped(); }
  static absl::Status Cancelled() { return absl::CancelledError("the operation was cancelled"); }

  absl::Status Train() {
    Sampler sampler(inputs_.sequences(), training_.batch_size, training_.seed);
    double least = std::numeric_limits<double>::infinity();
    for (Trained& linear : linears_) {
      if (Stopped()) return Cancelled();
      linear.tuner.Round(block_.Parameter(WeightOf(linear.module)));
    }
    for (int64_t i = 0; i < training_.iters; ++i) {
      ASSIGN_OR_RETURN(const double loss, Batch(sampler.Next()));
      const bool last = i + 1 == training_.iters;
      if (training_.not_use_best_mse ? last : loss < least) {
        least = loss;
        for (Trained& linear : linears_) {
          if (Stopped()) return Cancelled();
          linear.tuner.Keep();
        }
      }
      const float left = 1 - static_cast<float>(i) / static_cast<float>(training_.iters);
      for (Trained& linear : linears_) {
        if (Stopped()) return Cancelled();
        FloatBuffer& gradient = gradients_[linear.module];
        linear.tuner.Step(gradient, linear.rate * left, linear.range_rate * left,
                          block_.Parameter(WeightOf(linear.module)));
        gradient.clear();  // the next sums begin anew
      }
    }
    // Runs that were told to stop have given values that mean nothing.
    return Stopped() ? Cancelled() : absl::OkStatus();
  }

  // The mean squared error over some sequences, its gradients added to gradients_.
  absl::StatusOr<double> Batch(std::span<const int64_t> sequences) {
    const auto width = static_cast<double>(hidden_size_);
    double elements = 0;
    for (const int64_t s : sequences) elements += static_cast<double>(inputs_.tokens(s)) * width;
    double loss = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (Stopped()) return Cancelled();
      const int64_t s = sequences[i];
      for (FloatBuffer& values : pass_.values) values.clear();
      pass_.tokens = inputs_.tokens(s);
      ASSIGN_OR_RETURN(pass_[BlockValue::kInput], inputs_.Read(s));
      RETURN_IF_ERROR(targets_.Take(static_cast<size_t>(s), target_));
      block_.InOneTask([&] {
        block_.Continue(pass_, BlockValue::kOutput);
        loss += Loss(target_, elements) / elements;
        block_.Backward(pass_, std::move(gradient_), gradients_,
                        /*more=*/i + 1 < sequences.size());
      });
      targets_.Return(static_cast<size_t>(s), target_);
    }
    return loss;
  }

  // The sum of squared errors of pass_; the gradient of their mean over `elements` in gradient_.
  double Loss(const FloatBuffer& target, double elements) {
    const FloatBuffer& output = pass_[BlockValue::kOutput];
    const int64_t width = static_cast<int64_t>(output.size()) / pass_.tokens;
    // The last token predicts nothing; upstream leaves it out of the loss.
    const int64_t counted = pass_.tokens > 1 ? pass_.tokens - 1 : pass_.tokens;
    constexpr int64_t kRows = 32;  // of a task
    gradient_ = FloatBuffer(output.size());
    std::vector<double> sums(static_cast<size_t>(pass_.tokens));
    const auto factor = static_cast<float>(2 / elements);
    const auto rows = [&](int64_t task) {
      const int64_t end = std::min((task + 1) * kRows, pass_.tokens);
      for (int64_t t = task * kRows; t < end; ++t) {
        double sum = 0;
        for (int64_t i = t * width; i < (t + 1) * width; ++i) {
          const float difference = t < counted ? output[i] - target[i] : 0.0f;
          sum += static_cast<double>(difference) * difference;
          gradient_[i] = difference * factor;
        }
        sums[t] = sum;
      }
    };
    ParallelFor((pass_.tokens + kRows - 1) / kRows, rows,
                static_cast<double>(kRows * width) * 2e-9);
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  CalibratedBlock& block_;
  const BlockInputs& inputs_;
  const AutoRoundTraining& training_;
  SolverControl& control_;
  std::vector<Trained> linears_;
  SequenceStore targets_;
  int64_t hidden_size_ = 0;
  BlockGradients gradients_;
  // Whose memory every sequence uses again.
  BlockPass pass_;
  FloatBuffer target_, gradient_;  // gradient: by the block's outputs
};

}  // namespace

void AutoRoundSpelling::Spell(QuantizedTensor* weight) const {
  if (packing == AutoRoundPacking::kGptq) {
    for (float& zero : weight->zero_point) zero = std::max(zero, 1.0f);
  }
  MarkAutoRound(packing, stores_group_index, weight);
}

std::string AutoRoundScheme::Describe() const {
  const SignRoundSpec& spec = spelling_.spec;
  return absl::StrCat("autoround int", spec.bits, ", ",
                      spec.group_size > 0 ? absl::StrCat("group ", spec.group_size) : "whole rows",
                      spec.sym ? ", symmetric" : ", asymmetric",
                      spelling_.iters > 0 ? absl::StrCat(", ", spelling_.iters, " iterations")
                      : spelling_.searches_scale ? ", searched scales"
                                                 : "");
}

absl::Status AutoRoundScheme::CheckShape(int64_t rows, int64_t cols) const {
  if (rows % 32 == 0 && cols % 32 == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "auto-round packs multiples of 32 rows and columns; keep the module with layer_config");
}

InputNeeds AutoRoundScheme::Needs() const {
  return {.importance = spelling_.searches_scale, .optional = true};
}

absl::StatusOr<QuantizedTensor> AutoRoundScheme::Quantize(const TensorView& weight,
                                                          const InputStats* stats) const {
  if (spelling_.iters > 0) {
    return absl::InvalidArgumentError(
        "AutoRound trains whole blocks: give a model and a calibration text, or set iters to 0");
  }
  absl::StatusOr<QuantizedTensor> out;
  if (spelling_.searches_scale) {
    const std::span<const float> importance =
        stats != nullptr ? stats->importance : std::span<const float>();
    out = QuantizeSearchedRound(weight, spelling_.spec, importance);
  } else {
    out = QuantizeSignRound(weight, spelling_.spec, nullptr);
  }
  if (out.ok()) spelling_.Spell(&*out);
  return out;
}

absl::StatusOr<std::map<std::string, QuantizedTensor>> AutoRoundBlockSolver::Solve(
    CalibratedBlock& block, const BlockInputs& inputs,
    const std::map<std::string, const Scheme*>& schemes, SolverControl& control) const {
  Training training(block, inputs, training_, control);
  for (const BlockLinear& linear : block.linears()) {
    const auto found = schemes.find(linear.module);
    if (found == schemes.end()) continue;
    RETURN_IF_ERROR(CheckStopped(control.stopped));
    training.Add(linear, *static_cast<const AutoRoundScheme*>(found->second));
  }
  RETURN_IF_ERROR(training.ReadTargets());
  RETURN_IF_ERROR(training.Run());
  return training.Result();
}

}  // namespace quantd

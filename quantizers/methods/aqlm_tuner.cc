#include "quantizers/methods/aqlm_tuner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "quantizers/solvers/additive_problem.h"

namespace quantd {
namespace {

// The codebooks of one matrix in training.
class TunedMatrix {
 public:
  TunedMatrix(const QuantizedTensor& weight, const AdamSpec& adam, const StopRequest& stopped)
      : problem_{{}, {}, weight.rows, weight.cols, SpecOf(weight.grid), stopped},
        state_{weight.grid.table, weight.scale, {}},
        adam_(problem_, adam),
        scale_gradient_(weight.scale.size()) {
    state_.codes.assign(weight.codes.begin(), weight.codes.end());
    if (weight.codes.empty()) {
      state_.codes.assign(weight.wide_codes.begin(), weight.wide_codes.end());
    }
    adam_.TakeCodes(state_);
  }
  TunedMatrix(const TunedMatrix&) = delete;
  TunedMatrix& operator=(const TunedMatrix&) = delete;

  // The matrix, [rows, cols].
  void Write(std::span<float> values) const {
    const int64_t width = problem_.spec.in_group_size;
    ParallelFor(problem_.groups(), [&](int64_t group) {
      std::vector<float> sum(problem_.spec.size());
      float* to = values.data() + group * problem_.group_size();
      for (int64_t tile = 0; tile < problem_.tiles(); ++tile) {
        problem_.SumVectors(state_, group, tile, sum.data());
        for (int64_t i = 0; i < problem_.spec.size(); ++i) {
          to[i / width * problem_.cols + tile * width + i % width] = state_.scales[group] * sum[i];
        }
      }
    });
  }

  // `values` are what Write wrote, `gradient` that of the loss in them.
  absl::Status Step(std::span<const float> values, std::span<const float> gradient) {
    const int64_t size = problem_.group_size();
    ParallelFor(problem_.groups(), [&](int64_t group) {
      double along = 0;
      for (int64_t i = group * size; i < (group + 1) * size; ++i) {
        along += double{values[i]} * gradient[i];
      }
      scale_gradient_[group] = static_cast<float>(along / state_.scales[group]);
    });
    return adam_.Step(gradient, 1, scale_gradient_, &state_);
  }

  const std::vector<float>& codebooks() const { return state_.codebooks; }
  const std::vector<float>& scales() const { return state_.scales; }

 private:
  static AdditiveSpec SpecOf(const Grid& grid) {
    AdditiveSpec spec;
    spec.in_group_size = grid.vector_length;
    spec.out_group_size = grid.vector_rows;
    spec.num_codebooks = grid.codebooks;
    spec.nbits_per_codebook = grid.bits;
    return spec;
  }

  const AdditiveProblem problem_;
  AdditiveResult state_;
  AdditiveAdam adam_;
  std::vector<float> scale_gradient_;
};

// A norm's parameter or a bias in training.
struct TunedVector {
  std::string gradient;  // its key
  std::span<float> values;
  Adam adam;
};

// What a training that is validated goes back to.
struct Snapshot {
  std::map<std::string, std::pair<std::vector<float>, std::vector<float>>> matrices;
  std::vector<std::vector<float>> vectors;
};

class Training {
 public:
  Training(CalibratedBlock& block, const BlockInputs& inputs, const AqlmTuning& tuning,
           const std::map<std::string, QuantizedTensor>& matrices, SolverControl& control)
      : block_(block), inputs_(inputs), tuning_(tuning), control_(control) {
    const AdamSpec adam = {.lr = static_cast<float>(tuning.finetune_lr),
                           .beta1 = tuning.finetune_adam_beta1,
                           .beta2 = tuning.finetune_adam_beta2};
    for (const auto& [module, weight] : matrices) {
      matrices_.try_emplace(module, weight, adam, [this] { return Stopped(); });
      gradients_[module].resize(static_cast<size_t>(weight.rows * weight.cols));
    }
    for (const std::string& norm : block.norms()) {
      AddVector(absl::StrCat(norm, ".weight"), norm, adam);
      AddVector(absl::StrCat(norm, ".bias"), absl::StrCat(norm, ".bias"), adam);
    }
    for (const BlockLinear& linear : block.linears()) {
      const std::string bias = absl::StrCat(linear.module, ".bias");
      AddVector(bias, bias, adam);
    }
  }

  absl::Status Run() {
    SeededRandom random(tuning_.seed);
    std::vector<int64_t> order = random.Permutation(inputs_.sequences());
    const auto held = std::min<size_t>(tuning_.val_size, order.size() - 1);
    const std::vector<int64_t> validation(order.end() - static_cast<ptrdiff_t>(held), order.end());
    order.resize(order.size() - held);
    double least = std::numeric_limits<double>::infinity();
    if (held > 0) {
      ASSIGN_OR_RETURN(least, LossOf(validation, /*train=*/false));
      best_ = Keep();
    }
    for (int epoch = 0, worse = 0; epoch < tuning_.finetune_max_epochs; ++epoch) {
      RETURN_IF_ERROR(Epoch(order));
      if (held == 0) continue;
      ASSIGN_OR_RETURN(const double loss, LossOf(validation, /*train=*/false));
      if (loss < least) {
        least = loss;
        best_ = Keep();
        worse = 0;
      } else if (++worse >= tuning_.finetune_early_stop) {
        break;
      }
    }
    if (held == 0) best_ = Keep();
    // Runs that were told to stop have given values that mean nothing.
    return CheckStopped([this] { return Stopped(); });
  }

  // Rounds what was found to what is stored.
  absl::Status Finish(std::map<std::string, QuantizedTensor>& matrices) {
    for (size_t i = 0; i < vectors_.size(); ++i) {
      std::ranges::copy(best_.vectors[i], vectors_[i].values.begin());
    }
    for (auto& [module, weight] : matrices) {
      const auto& [codebooks, scales] = best_.matrices.at(module);
      for (const auto& [from, to] :
           {std::pair{&codebooks, &weight.grid.table}, {&scales, &weight.scale}}) {
        for (size_t i = 0; i < to->size(); ++i) {
          (*to)[i] = RoundTo(weight.scale_dtype, (*from)[i]);
          if (!std::isfinite((*to)[i])) return Diverged();
        }
      }
    }
    return absl::OkStatus();
  }

 private:
  bool Stopped() const { return control_.stopped && control_.stopped(); }
  static absl::Status Diverged() {
    return absl::FailedPreconditionError(
        "the fine-tuning of the block's codebooks diverges; lower finetune_lr");
  }

  void AddVector(const std::string& parameter, const std::string& gradient, const AdamSpec& adam) {
    const std::span<float> values = block_.Parameter(parameter);
    if (values.empty()) return;
    vectors_.push_back({gradient, values, Adam(values.size(), adam)});
    gradients_[gradient].resize(values.size());
  }

  absl::Status Epoch(const std::vector<int64_t>& order) {
    const size_t batch = static_cast<size_t>(tuning_.finetune_batch_size);
    for (size_t first = 0; first < order.size(); first += batch) {
      const std::span<const int64_t> sequences(order.data() + first,
                                               std::min(batch, order.size() - first));
      RETURN_IF_ERROR(LossOf(sequences, /*train=*/true).status());
      for (auto& [module, matrix] : matrices_) {
        RETURN_IF_ERROR(matrix.Step(Values(module), gradients_.at(module)));
      }
      for (TunedVector& vector : vectors_) {
        vector.adam.Begin();
        const FloatBuffer& gradient = gradients_.at(vector.gradient);
        for (size_t i = 0; i < gradient.size(); ++i) {
          vector.adam.Update(i, gradient[i], &vector.values[i]);
        }
      }
    }
    return absl::OkStatus();
  }

  std::span<float> Values(const std::string& module) {
    return block_.Parameter(absl::StrCat(module, ".weight"));
  }

  // The mean squared error over some sequences; with `train`, its gradients in gradients_.
  absl::StatusOr<double> LossOf(std::span<const int64_t> sequences, bool train) {
    for (const auto& [module, matrix] : matrices_) matrix.Write(Values(module));
    for (auto& [name, gradient] : gradients_) std::ranges::fill(gradient, 0.0f);
    double elements = 0, loss = 0;
    for (const int64_t s : sequences) elements += static_cast<double>(inputs_.tokens(s));
    for (const int64_t s : sequences) {
      RETURN_IF_ERROR(CheckStopped([this] { return Stopped(); }));
      ASSIGN_OR_RETURN(const FloatBuffer hidden, inputs_.Read(s));
      ASSIGN_OR_RETURN(const FloatBuffer target, inputs_.ReadTarget(s));
      const BlockPass pass = block_.Run(BlockValue::kInput, hidden, BlockValue::kOutput);
      FloatBuffer gradient = pass[BlockValue::kOutput];
      const double width = static_cast<double>(gradient.size()) / static_cast<double>(pass.tokens);
      const auto factor = static_cast<float>(2 / (elements * width));
      double sum = 0;
      for (size_t i = 0; i < gradient.size(); ++i) {
        const float difference = gradient[i] - target[i];
        sum += double{difference} * difference;
        gradient[i] = factor * difference;
      }
      loss += sum / (elements * width);
      if (train) block_.Backward(pass, std::move(gradient), gradients_, /*more=*/false);
    }
    RETURN_IF_ERROR(CheckStopped([this] { return Stopped(); }));
    if (!std::isfinite(loss)) return Diverged();
    return loss;
  }

  Snapshot Keep() const {
    Snapshot now;
    for (const auto& [module, matrix] : matrices_) {
      now.matrices[module] = {matrix.codebooks(), matrix.scales()};
    }
    for (const TunedVector& vector : vectors_) {
      now.vectors.emplace_back(vector.values.begin(), vector.values.end());
    }
    return now;
  }

  CalibratedBlock& block_;
  const BlockInputs& inputs_;
  const AqlmTuning& tuning_;
  SolverControl& control_;
  std::map<std::string, TunedMatrix> matrices_;
  std::vector<TunedVector> vectors_;
  BlockGradients gradients_;
  Snapshot best_;
};

}  // namespace

absl::Status AqlmTuner::Tune(CalibratedBlock& block, const BlockInputs& inputs,
                             std::map<std::string, QuantizedTensor>& matrices,
                             SolverControl& control) const {
  if (tuning_.finetune_max_epochs == 0 || matrices.empty()) return absl::OkStatus();
  Training training(block, inputs, tuning_, matrices, control);
  RETURN_IF_ERROR(training.Run());
  return training.Finish(matrices);
}

}  // namespace quantd

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/matrix_product.h"
#include "quantizers/solvers/additive_problem.h"

namespace quantd {
namespace {

constexpr int64_t kPanel = 64;  // rows multiplied before the job may stop

}  // namespace

void Adam::Update(size_t i, float gradient, float* parameter) {
  square_[i] = 0.95f * square_[i] + 0.05f * gradient * gradient;
  largest_[i] = std::max(largest_[i], square_[i]);
  const auto correction = static_cast<float>(std::sqrt(1 - remaining_));
  *parameter -= lr_ * gradient / (std::sqrt(largest_[i]) / correction + 1e-8f);
}

AdditiveTrainer::AdditiveTrainer(const AdditiveProblem& problem)
    : problem_(problem),
      codebook_adam_(problem.spec.num_codebooks * problem.spec.entries() * problem.spec.size(),
                     problem.spec.lr),
      scale_adam_(problem.groups(), problem.spec.lr),
      weight_gradient_(problem.weight.size()),
      scale_gradient_(problem.groups()) {}

absl::StatusOr<double> AdditiveTrainer::Gradients(const AdditiveResult& state) {
  const AdditiveProblem& p = problem_;
  const auto size = static_cast<double>(p.group_size());
  std::vector<float> difference(p.weight.size());
  RETURN_IF_ERROR(
      ParallelPieces(p.groups(), size * (p.spec.num_codebooks + 2), p.stopped, [&](int64_t group) {
        p.Difference(state, group, difference.data() + group * p.group_size());
      }));
  std::fill(weight_gradient_.begin(), weight_gradient_.end(), 0.0f);
  for (int64_t first = 0; first < p.rows; first += kPanel) {
    RETURN_IF_ERROR(CheckStopped(p.stopped));
    AddMatrixProduct(std::min(kPanel, p.rows - first), p.cols, p.cols,
                     {difference.data() + first * p.cols, p.cols}, {p.gram.data(), p.cols},
                     weight_gradient_.data() + first * p.cols, p.cols);
  }
  std::vector<double> errors(p.groups());
  RETURN_IF_ERROR(ParallelPieces(p.groups(), 4 * size, p.stopped, [&](int64_t group) {
    // W' = s V: the gradient in s is that in W' along V = (W - D) / s.
    double error = 0, along = 0;
    for (int64_t i = group * p.group_size(); i < (group + 1) * p.group_size(); ++i) {
      error += double{difference[i]} * weight_gradient_[i];
      along += (double{p.weight[i]} - difference[i]) * weight_gradient_[i];
    }
    errors[group] = error;
    scale_gradient_[group] =
        static_cast<float>(-2 * along / (double{state.scales[group]} * p.rows));
  }));
  return std::accumulate(errors.begin(), errors.end(), 0.0);
}

absl::Status AdditiveTrainer::StepCodebooks(const std::vector<ByCode>& by_code,
                                            AdditiveResult* state) {
  const AdditiveProblem& p = problem_;
  const int64_t entries = p.spec.entries(), size = p.spec.size(), width = p.spec.in_group_size;
  const float factor = -2.0f / static_cast<float>(p.rows);
  const int64_t count = entries * p.spec.num_codebooks;
  const double operations =
      static_cast<double>(p.weight.size() * p.spec.num_codebooks) / static_cast<double>(count) +
      8.0 * static_cast<double>(size);
  return ParallelPieces(count, operations, p.stopped, [&](int64_t entry) {
    const ByCode& sorted = by_code[entry / entries];
    const int64_t k = entry % entries;
    if (sorted.begin[k] == sorted.begin[k + 1])
      return;  // as torch, without a gradient nothing moves
    std::vector<float> gradient(size);
    for (int64_t i = sorted.begin[k]; i < sorted.begin[k + 1]; ++i) {
      const int64_t group = sorted.positions[i] / p.tiles(), tile = sorted.positions[i] % p.tiles();
      const float* from = weight_gradient_.data() + group * p.group_size() + tile * width;
      const float scale = state->scales[group];
      for (int64_t j = 0; j < size; ++j) {
        gradient[j] += scale * from[j / width * p.cols + j % width];
      }
    }
    for (int64_t j = 0; j < size; ++j) {
      codebook_adam_.Update(entry * size + j, factor * gradient[j],
                            &state->codebooks[entry * size + j]);
    }
  });
}

absl::Status AdditiveTrainer::Train(AdditiveResult* state) {
  const AdditiveSpec& spec = problem_.spec;
  std::vector<ByCode> by_code;
  std::vector<int32_t> codes(problem_.groups() * problem_.tiles());
  for (int m = 0; m < spec.num_codebooks; ++m) {
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = state->codes[i * spec.num_codebooks + m];
    by_code.push_back(SortByCode(codes, spec.entries()));
  }
  for (int step = 0; step < spec.steps_per_epoch; ++step) {
    RETURN_IF_ERROR(Gradients(*state).status());
    codebook_adam_.Begin();
    RETURN_IF_ERROR(StepCodebooks(by_code, state));
    scale_adam_.Begin();
    for (size_t g = 0; g < state->scales.size(); ++g) {
      scale_adam_.Update(g, scale_gradient_[g], &state->scales[g]);
    }
  }
  return absl::OkStatus();
}

}  // namespace quantd

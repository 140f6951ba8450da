#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "kernels/matrix_product.h"
#include "quantizers/solvers/additive_problem.h"

namespace quantd {
namespace {

// Rows that are multiplied before the job may stop: a tenth of a second, and whole tasks of a
// product.
int64_t PanelRows(int64_t cols) {
  constexpr int64_t kTask = 96;
  return std::max<int64_t>(1, (int64_t{1} << 32) / (cols * cols) / kTask) * kTask;
}

}  // namespace

AdditiveAdam::AdditiveAdam(const AdditiveProblem& problem, const AdamSpec& spec)
    : p_(problem),
      codebooks_(problem.spec.num_codebooks * problem.spec.entries() * problem.spec.size(), spec),
      scales_(problem.groups(), spec) {}

void AdditiveAdam::TakeCodes(const AdditiveResult& state) {
  uses_.clear();
  std::vector<int32_t> codes(p_.groups() * p_.tiles());
  const int books = p_.spec.num_codebooks;
  for (int m = 0; m < books; ++m) {
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = state.codes[i * books + m];
    ByCode sorted = SortByCode(codes, p_.spec.entries());
    Uses& uses = uses_.emplace_back();
    uses.begin = std::move(sorted.begin);
    for (const int64_t position : sorted.positions) {
      const int64_t group = position / p_.tiles(), tile = position % p_.tiles();
      uses.places.push_back({group * p_.group_size() + tile * p_.spec.in_group_size, group});
    }
  }
}

absl::Status AdditiveAdam::Step(std::span<const float> weight_gradient, float factor,
                                std::span<const float> scale_gradient, AdditiveResult* state) {
  const int64_t entries = p_.spec.entries(), size = p_.spec.size(), width = p_.spec.in_group_size;
  const int64_t count = entries * p_.spec.num_codebooks;
  const double operations = static_cast<double>(weight_gradient.size() * p_.spec.num_codebooks) /
                                static_cast<double>(count) +
                            8.0 * static_cast<double>(size);
  codebooks_.Begin();
  RETURN_IF_ERROR(ParallelPieces(count, operations, p_.stopped, [&](int64_t entry) {
    const Uses& uses = uses_[entry / entries];
    const int64_t k = entry % entries;
    if (uses.begin[k] == uses.begin[k + 1]) return;  // nothing pulls, as in torch
    std::vector<float> gradient(size);
    for (int64_t i = uses.begin[k]; i < uses.begin[k + 1]; ++i) {
      const float* from = weight_gradient.data() + uses.places[i].first;
      const float scale = state->scales[uses.places[i].group];
      for (int64_t row = 0; row < size; row += width, from += p_.cols) {
        for (int64_t j = 0; j < width; ++j) gradient[row + j] += scale * from[j];
      }
    }
    for (int64_t j = 0; j < size; ++j) {
      codebooks_.Update(entry * size + j, factor * gradient[j],
                        &state->codebooks[entry * size + j]);
    }
  }));
  scales_.Begin();
  for (size_t g = 0; g < state->scales.size(); ++g) {
    scales_.Update(g, scale_gradient[g], &state->scales[g]);
  }
  return absl::OkStatus();
}

AdditiveTrainer::AdditiveTrainer(const AdditiveProblem& problem)
    : problem_(problem),
      adam_(problem, {.lr = problem.spec.lr, .beta1 = 0, .beta2 = 0.95, .amsgrad = true}),
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
  const int64_t panel = PanelRows(p.cols);
  for (int64_t first = 0; first < p.rows; first += panel) {
    RETURN_IF_ERROR(CheckStopped(p.stopped));
    AddMatrixProduct(std::min(panel, p.rows - first), p.cols, p.cols,
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

absl::Status AdditiveTrainer::Train(AdditiveResult* state) {
  const float factor = -2.0f / static_cast<float>(problem_.rows);
  adam_.TakeCodes(*state);
  for (int step = 0; step < problem_.spec.steps_per_epoch; ++step) {
    RETURN_IF_ERROR(Gradients(*state).status());
    RETURN_IF_ERROR(adam_.Step(weight_gradient_, factor, scale_gradient_, state));
  }
  return absl::OkStatus();
}

}  // namespace quantd

#include "quantizers/solvers/additive.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quantizers/solvers/additive_problem.h"

namespace quantd {
namespace {

// Norms of the bands of rows.
std::vector<float> Norms(const AdditiveProblem& p) {
  std::vector<float> norms(p.groups());
  ParallelFor(p.groups(), [&](int64_t group) {
    double sum = 0;
    for (int64_t i = 0; i < p.group_size(); ++i) {
      const double value = p.weight[group * p.group_size() + i];
      sum += value * value;
    }
    norms[group] = static_cast<float>(std::sqrt(sum) + 1e-9);
  });
  return norms;
}

// The weights over their norms, tile by tile: [groups, tiles, size].
std::vector<float> NormalizedTiles(const AdditiveProblem& p, const std::vector<float>& norms) {
  std::vector<float> tiles(p.weight.size());
  const int64_t width = p.spec.in_group_size;
  ParallelFor(p.groups(), [&](int64_t group) {
    float* to = tiles.data() + group * p.group_size();
    for (int64_t tile = 0; tile < p.tiles(); ++tile) {
      for (int64_t a = 0; a < p.spec.out_group_size; ++a) {
        const float* from =
            p.weight.data() + (group * p.spec.out_group_size + a) * p.cols + tile * width;
        for (int64_t b = 0; b < width; ++b) *to++ = from[b] / norms[group];
      }
    }
  });
  return tiles;
}

absl::StatusOr<AdditiveResult> ResidualKMeans(const AdditiveProblem& p) {
  const AdditiveSpec& spec = p.spec;
  AdditiveResult state;
  state.scales = Norms(p);
  std::vector<float> residual = NormalizedTiles(p, state.scales);
  const int64_t count = p.groups() * p.tiles();
  state.codes.resize(count * spec.num_codebooks);
  SeededRandom seeds(spec.seed);
  for (int m = 0; m < spec.num_codebooks; ++m) {
    ASSIGN_OR_RETURN(const KMeansResult found, KMeans(residual, spec.size(), {},
                                                      {.centroids = spec.entries(),
                                                       .iterations = spec.init_max_iter,
                                                       .seed = seeds.Next()},
                                                      p.stopped));
    state.codebooks.insert(state.codebooks.end(), found.centroids.begin(), found.centroids.end());
    ParallelFor(count, [&](int64_t i) {
      state.codes[i * spec.num_codebooks + m] = found.codes[i];
      const float* centroid = found.centroids.data() + int64_t{found.codes[i]} * spec.size();
      for (int j = 0; j < spec.size(); ++j) residual[i * spec.size() + j] -= centroid[j];
    });
  }
  return state;
}

}  // namespace

void AdditiveProblem::SumVectors(const AdditiveResult& state, int64_t group, int64_t tile,
                                 float* out) const {
  const int32_t* codes = state.codes.data() + (group * tiles() + tile) * spec.num_codebooks;
  std::fill_n(out, spec.size(), 0.0f);
  for (int m = 0; m < spec.num_codebooks; ++m) {
    const float* vector =
        state.codebooks.data() + (m * spec.entries() + codes[m]) * int64_t{spec.size()};
    for (int j = 0; j < spec.size(); ++j) out[j] += vector[j];
  }
}

void AdditiveProblem::Difference(const AdditiveResult& state, int64_t group, float* out) const {
  std::vector<float> sum(spec.size());
  const int64_t width = spec.in_group_size;
  for (int64_t tile = 0; tile < tiles(); ++tile) {
    SumVectors(state, group, tile, sum.data());
    for (int64_t a = 0; a < spec.out_group_size; ++a) {
      const float* from = weight.data() + group * group_size() + a * cols + tile * width;
      float* to = out + a * cols + tile * width;
      for (int64_t b = 0; b < width; ++b) {
        to[b] = from[b] - state.scales[group] * sum[a * width + b];
      }
    }
  }
}

absl::StatusOr<AdditiveResult> SolveAdditive(std::span<const float> weight, int64_t rows,
                                             int64_t cols, std::span<const float> gram,
                                             const AdditiveSpec& spec, const StopRequest& stopped) {
  const AdditiveProblem problem{weight, gram, rows, cols, spec, stopped};
  ASSIGN_OR_RETURN(AdditiveResult state, ResidualKMeans(problem));
  AdditiveTrainer trainer(problem);
  SeededRandom seeds(~spec.seed);
  AdditiveResult best;
  double least = std::numeric_limits<double>::infinity();
  for (int epoch = 0;; ++epoch) {
    ASSIGN_OR_RETURN(const double error, trainer.Error(state));
    const bool enough =
        epoch == spec.max_epochs || (epoch > 0 && spec.relative_mse_tolerance >= 0 &&
                                     error > least * (1 - spec.relative_mse_tolerance));
    if (epoch == 0 || error < least) {
      least = error;
      best = state;
    }
    if (enough) return best;
    RETURN_IF_ERROR(trainer.Train(&state));
    RETURN_IF_ERROR(SearchCodes(problem, seeds.Next(), &state));
  }
}

}  // namespace quantd

#include "quantizers/solvers/k_means.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace quantd {
namespace {

constexpr int64_t kChunk = 64;  // vectors searched together

// Sum of weight * |v - c|^2.
absl::StatusOr<double> ErrorOf(std::span<const float> vectors, int size,
                               std::span<const float> weights, const KMeansResult& result,
                               const StopRequest& stopped) {
  const auto count = static_cast<int64_t>(result.codes.size());
  std::vector<double> errors((count + kChunk - 1) / kChunk);
  const double operations = 2.0 * kChunk * size;
  RETURN_IF_ERROR(
      ParallelPieces(static_cast<int64_t>(errors.size()), operations, stopped, [&](int64_t chunk) {
        for (int64_t i = chunk * kChunk; i < std::min(count, (chunk + 1) * kChunk); ++i) {
          const float* v = vectors.data() + i * size;
          const float* c = result.centroids.data() + int64_t{result.codes[i]} * size;
          double error = 0;
          for (int j = 0; j < size; ++j) error += double{v[j] - c[j]} * (v[j] - c[j]);
          errors[chunk] += weights.empty() ? error : error * weights[i];
        }
      }));
  return std::accumulate(errors.begin(), errors.end(), 0.0);
}

// Every centroid becomes the mean of the vectors near it.
absl::Status MoveCentroids(std::span<const float> vectors, int size, std::span<const float> weights,
                           const ByCode& by_code, const StopRequest& stopped,
                           KMeansResult* result) {
  const auto entries = static_cast<int64_t>(result->centroids.size()) / size;
  const double operations =
      2.0 * static_cast<double>(vectors.size()) / static_cast<double>(entries);
  return ParallelPieces(entries, operations, stopped, [&](int64_t k) {
    std::vector<double> sum(size);
    double total = 0;
    for (int64_t i = by_code.begin[k]; i < by_code.begin[k + 1]; ++i) {
      const int64_t position = by_code.positions[i];
      const double weight = weights.empty() ? 1.0 : weights[position];
      total += weight;
      for (int j = 0; j < size; ++j) sum[j] += weight * vectors[position * size + j];
    }
    if (total <= 0) return;
    for (int j = 0; j < size; ++j) {
      result->centroids[k * size + j] = static_cast<float>(sum[j] / total);
    }
  });
}

}  // namespace

uint64_t SeededRandom::Next() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::vector<int64_t> SeededRandom::Permutation(int64_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = count - 1; i > 0; --i) std::swap(order[i], order[Below(i + 1)]);
  return order;
}

SearchableCodebook::SearchableCodebook(std::span<const float> vectors, int size) : size_(size) {
  const auto entries = static_cast<int64_t>(vectors.size()) / size;
  padded_ = (entries + kSearchPadding - 1) / kSearchPadding * kSearchPadding;
  turned_.resize(padded_ * size);
  penalties_.assign(padded_, std::numeric_limits<float>::infinity());
  for (int64_t k = 0; k < entries; ++k) {
    float norm = 0;
    for (int j = 0; j < size; ++j) {
      const float value = vectors[k * size + j];
      turned_[j * padded_ + k] = value;
      norm += value * value;
    }
    penalties_[k] = norm;
  }
}

void SearchableCodebook::SetPenalties(std::span<const float> penalties) {
  std::copy(penalties.begin(), penalties.end(), penalties_.begin());
}

void SearchableCodebook::Nearest(const float* x, int64_t count, int32_t* entry) const {
  float factors[kChunk], costs[kChunk];
  std::fill_n(factors, kChunk, 0.5f);
  for (int64_t first = 0; first < count; first += kChunk) {
    BestVectorSearch().best(table(), x + first * size_, factors, std::min(kChunk, count - first),
                            entry + first, costs);
  }
}

absl::Status NearestOfAll(const SearchableCodebook& codebook, std::span<const float> vectors,
                          int size, const StopRequest& stopped, std::vector<int32_t>* codes) {
  const auto count = static_cast<int64_t>(vectors.size()) / size;
  codes->resize(count);
  const double operations = 2.0 * kChunk * size * static_cast<double>(codebook.table().entries);
  return ParallelPieces((count + kChunk - 1) / kChunk, operations, stopped, [&](int64_t chunk) {
    const int64_t first = chunk * kChunk;
    codebook.Nearest(vectors.data() + first * size, std::min(kChunk, count - first),
                     codes->data() + first);
  });
}

ByCode SortByCode(std::span<const int32_t> codes, int64_t entries) {
  ByCode sorted;
  sorted.begin.resize(entries + 1);
  for (const int32_t code : codes) ++sorted.begin[code + 1];
  std::partial_sum(sorted.begin.begin(), sorted.begin.end(), sorted.begin.begin());
  sorted.positions.resize(codes.size());
  std::vector<int64_t> next(sorted.begin.begin(), sorted.begin.end() - 1);
  for (size_t i = 0; i < codes.size(); ++i) {
    sorted.positions[next[codes[i]]++] = static_cast<int64_t>(i);
  }
  return sorted;
}

absl::StatusOr<KMeansResult> KMeans(std::span<const float> vectors, int size,
                                    std::span<const float> weights, const KMeansSpec& spec,
                                    const StopRequest& stopped) {
  const auto count = static_cast<int64_t>(vectors.size()) / size;
  KMeansResult result;
  result.centroids.resize(spec.centroids * size);
  const std::vector<int64_t> start = SeededRandom(spec.seed).Permutation(count);
  for (int64_t k = 0; k < std::min(spec.centroids, count); ++k) {
    std::copy_n(vectors.begin() + start[k] * size, size, result.centroids.begin() + k * size);
  }
  double error = std::numeric_limits<double>::infinity();
  const auto assign = [&] {
    return NearestOfAll(SearchableCodebook(result.centroids, size), vectors, size, stopped,
                        &result.codes);
  };
  for (int i = 0; i < spec.iterations; ++i) {
    RETURN_IF_ERROR(assign());
    RETURN_IF_ERROR(MoveCentroids(vectors, size, weights, SortByCode(result.codes, spec.centroids),
                                  stopped, &result));
    if (i % spec.check_every != 0) continue;
    ASSIGN_OR_RETURN(const double now, ErrorOf(vectors, size, weights, result, stopped));
    if (now >= error * (1 - spec.tolerance)) break;
    error = now;
  }
  RETURN_IF_ERROR(assign());
  return result;
}

}  // namespace quantd

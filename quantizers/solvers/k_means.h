// Lloyd's k-means on short vectors, as AQLM and VPTQ use it (Lloyd 1982; AQLM's kmeans.py at
// Vahe1994/AQLM e79a896, vptq's use of cuML). The same centroids for any number of threads and any
// instruction set.
#ifndef QUANTD_QUANTIZERS_SOLVERS_K_MEANS_H_
#define QUANTD_QUANTIZERS_SOLVERS_K_MEANS_H_

#include <span>
#include <vector>

#include "core/status.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/vector_search.h"

namespace quantd {

// A codebook of vectors, made ready for the search.
class SearchableCodebook {
 public:
  // `vectors` [entries, size]; penalties are |c|^2.
  SearchableCodebook(std::span<const float> vectors, int size);
  // Other penalties, one for each entry.
  void SetPenalties(std::span<const float> penalties);

  SearchTable table() const { return {size_, padded_, turned_.data(), penalties_.data()}; }
  // The nearest entry of every row of x [count, size], one after another on this thread.
  void Nearest(const float* x, int64_t count, int32_t* entry) const;

 private:
  int size_;
  int64_t padded_;
  std::vector<float> turned_;     // [size, padded]
  std::vector<float> penalties_;  // [padded]
};

struct KMeansSpec {
  int64_t centroids = 256;
  int iterations = 100;
  int check_every = 10;     // iterations between looks at the error
  double tolerance = 1e-6;  // relative fall of the error below which it ends
  uint64_t seed = 0;
};

struct KMeansResult {
  std::vector<float> centroids;  // [centroids, size]
  std::vector<int32_t> codes;    // of the nearest centroid, one for each vector
};

// Starts from distinct random vectors; a centroid that nobody is near stays where it is. Needs at
// least as many `vectors` [n, size] as centroids; else the vectors are the first centroids and the
// others are zero. `weights` [n] are what the vectors count, or empty for 1. CANCELLED when
// stopped.
absl::StatusOr<KMeansResult> KMeans(std::span<const float> vectors, int size,
                                    std::span<const float> weights, const KMeansSpec& spec,
                                    const StopRequest& stopped);

// The nearest entry of every row of `vectors` [n, size], in parallel.
absl::Status NearestOfAll(const SearchableCodebook& codebook, std::span<const float> vectors,
                          int size, const StopRequest& stopped, std::vector<int32_t>* codes);

// Positions 0, 1, ... of `codes` (below `entries`) in the order of their codes: those of code k are
// positions[begin[k]] to positions[begin[k + 1] - 1], ascending.
struct ByCode {
  std::vector<int64_t> begin;
  std::vector<int64_t> positions;
};
ByCode SortByCode(std::span<const int32_t> codes, int64_t entries);

// A small generator that gives the same numbers everywhere (splitmix64, Steele et al. 2014).
class SeededRandom {
 public:
  explicit SeededRandom(uint64_t seed) : state_(seed) {}
  uint64_t Next();
  // 0 to limit - 1; limit is far below 2^64.
  int64_t Below(int64_t limit) {
    return static_cast<int64_t>(Next() % static_cast<uint64_t>(limit));
  }
  // 0 to count - 1 in random order.
  std::vector<int64_t> Permutation(int64_t count);

 private:
  uint64_t state_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_K_MEANS_H_

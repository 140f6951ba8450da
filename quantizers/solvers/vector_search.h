// The hot loops of quantizers with codebooks, one variant per instruction set. A vector lane holds
// one codebook entry and does its operations in the order of the scalar loop, fused multiply-adds
// all, so any vector width gives the same bits.
#ifndef QUANTD_QUANTIZERS_SOLVERS_VECTOR_SEARCH_H_
#define QUANTD_QUANTIZERS_SOLVERS_VECTOR_SEARCH_H_

#include <cstdint>

namespace quantd {

constexpr int64_t kSearchPadding = 32;  // entries of a table come in multiples of it

// A codebook turned for the search, and a number for each entry.
struct SearchTable {
  int size;                // of a vector
  int64_t entries;         // a multiple of kSearchPadding
  const float* vectors;    // [size, entries]
  const float* penalties;  // [entries]; infinity where there is no entry
};

struct VectorSearch {
  const char* isa;
  // For every row i of `x` [count, size]: the entry k of least factor[i] * penalty[k] - x[i] .
  // c[k], the first one of equals, and that cost. With penalties |c|^2 and factors 1/2 it is the
  // nearest.
  void (*best)(const SearchTable& table, const float* x, const float* factor, int64_t count,
               int32_t* entry, float* cost);
  // All these costs of one row, into `cost` [entries].
  void (*costs)(const SearchTable& table, const float* x, float factor, float* cost);
};

// The widest variant that this processor runs.
const VectorSearch& BestVectorSearch();
// All variants that this processor runs, for tests. The last one is the best; null-terminated.
const VectorSearch* const* AllVectorSearches();

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_VECTOR_SEARCH_H_

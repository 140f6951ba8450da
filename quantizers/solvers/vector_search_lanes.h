// The body of vector_search.h, compiled once per instruction set by a translation unit that defines
// QUANTD_VECTOR_SEARCH_ISA. Nothing here may be shared between those units: everything is in their
// own namespace, and no library header with inline functions is included.
#ifndef QUANTD_VECTOR_SEARCH_ISA
#error "define QUANTD_VECTOR_SEARCH_ISA first"
#endif

#include <cstdint>

#include "quantizers/solvers/vector_search.h"

namespace quantd {
namespace QUANTD_VECTOR_SEARCH_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));

constexpr int kRows = 4;        // rows of x that share a load of the table
constexpr int64_t kTile = 512;  // entries searched before the next rows come, to stay in the cache
constexpr int64_t kBatch = 64;  // rows whose best entries are remembered between tiles
constexpr float kInfinity = __builtin_inff();

inline Floats Load(const float* from) {
  Floats v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}
inline void Store(Floats v, float* to) { __builtin_memcpy(to, &v, sizeof v); }
inline Floats Broadcast(float v) { return v - Floats{}; }

// The least cost so far of one row in every lane, and the first entry of the vector it came from.
struct Lead {
  Floats cost;
  Ints entry;
};

// N rows against the entries [begin, end).
template <int N>
inline void SearchTile(const SearchTable& t, const float* x, const float* factor, int64_t begin,
                       int64_t end, Lead* leads) {
  Lead lead[N];
  for (int i = 0; i < N; ++i) lead[i] = leads[i];
  for (int64_t k = begin; k < end; k += kLanes) {
    const Floats penalty = Load(t.penalties + k);
    Floats cost[N];
    for (int i = 0; i < N; ++i) cost[i] = Broadcast(factor[i]) * penalty;
    for (int j = 0; j < t.size; ++j) {
      const Floats c = Load(t.vectors + j * t.entries + k);
      for (int i = 0; i < N; ++i) cost[i] -= Broadcast(x[i * t.size + j]) * c;
    }
    const Ints here = static_cast<int32_t>(k) - Ints{};
    for (int i = 0; i < N; ++i) {
      const Ints less = cost[i] < lead[i].cost;
      lead[i].cost = less ? cost[i] : lead[i].cost;
      lead[i].entry = less ? here : lead[i].entry;
    }
  }
  for (int i = 0; i < N; ++i) leads[i] = lead[i];
}

inline void Reduce(const Lead& lead, int32_t* entry, float* cost) {
  float least = lead.cost[0];
  int32_t first = lead.entry[0];
  for (int l = 1; l < kLanes; ++l) {
    const int32_t here = lead.entry[l] + l;
    if (lead.cost[l] < least || (lead.cost[l] == least && here < first)) {
      least = lead.cost[l];
      first = here;
    }
  }
  *entry = first;
  *cost = least;
}

void Best(const SearchTable& t, const float* x, const float* factor, int64_t count, int32_t* entry,
          float* cost) {
  Lead leads[kBatch];
  for (int64_t first = 0; first < count; first += kBatch) {
    const int64_t rows = count - first < kBatch ? count - first : kBatch;
    for (int64_t i = 0; i < rows; ++i) leads[i] = {Broadcast(kInfinity), Ints{}};
    for (int64_t begin = 0; begin < t.entries; begin += kTile) {
      const int64_t end = begin + kTile < t.entries ? begin + kTile : t.entries;
      int64_t i = 0;
      for (; i + kRows <= rows; i += kRows) {
        SearchTile<kRows>(t, x + (first + i) * t.size, factor + first + i, begin, end, leads + i);
      }
      for (; i < rows; ++i) {
        SearchTile<1>(t, x + (first + i) * t.size, factor + first + i, begin, end, leads + i);
      }
    }
    for (int64_t i = 0; i < rows; ++i) Reduce(leads[i], entry + first + i, cost + first + i);
  }
}

void Costs(const SearchTable& t, const float* x, float factor, float* out) {
  for (int64_t k = 0; k < t.entries; k += kLanes) {
    Floats cost = Broadcast(factor) * Load(t.penalties + k);
    for (int j = 0; j < t.size; ++j) {
      cost -= Broadcast(x[j]) * Load(t.vectors + j * t.entries + k);
    }
    Store(cost, out + k);
  }
}

}  // namespace

extern const VectorSearch kVectorSearch;
const VectorSearch kVectorSearch = {
#if defined(__AVX512F__)
    "avx512",
#elif defined(__AVX2__)
    "avx2",
#else
    "baseline",
#endif
    Best, Costs};

}  // namespace QUANTD_VECTOR_SEARCH_ISA
}  // namespace quantd

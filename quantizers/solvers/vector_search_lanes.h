// The body of vector_search.h, compiled once per instruction set by a translation unit that defines
// QUANTD_VECTOR_SEARCH_ISA. Nothing here may be shared between those units: everything is in their
// own namespace, and no library header with inline functions is included but that of the
// intrinsics, which are always inlined.
#ifndef QUANTD_VECTOR_SEARCH_ISA
#error "define QUANTD_VECTOR_SEARCH_ISA first"
#endif

#include <cstdint>

#if defined(__AVX512F__) || defined(__FMA__)
#include <immintrin.h>
#endif

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

constexpr int kRows = 4;                        // rows of x that share a load of the table
constexpr int kVectors = kLanes == 16 ? 2 : 1;  // of entries that share a load of x
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
// c - a b, rounded once.
inline Floats SubtractProduct(Floats c, Floats a, Floats b) {
#if defined(__AVX512F__)
  return _mm512_fnmadd_ps(a, b, c);
#elif defined(__FMA__)
  return _mm256_fnmadd_ps(a, b, c);
#else
  Floats out;
  for (int l = 0; l < kLanes; ++l) out[l] = __builtin_fmaf(-a[l], b[l], c[l]);
  return out;
#endif
}

// The least cost so far of one row in every lane, and the first entry of the vector it came from.
struct Lead {
  Floats cost;
  Ints entry;
};

// N rows against the entries [begin, end). Size: that of the vectors, or 0 for what the table says.
template <int N, int Size>
inline void SearchTile(const SearchTable& t, const float* x, const float* factor, int64_t begin,
                       int64_t end, Lead* leads) {
  const int size = Size > 0 ? Size : t.size;
  Lead lead[N];
  for (int i = 0; i < N; ++i) lead[i] = leads[i];
  for (int64_t k = begin; k < end; k += kVectors * kLanes) {
    Floats cost[N][kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const Floats penalty = Load(t.penalties + k + v * kLanes);
      for (int i = 0; i < N; ++i) cost[i][v] = Broadcast(factor[i]) * penalty;
    }
    for (int j = 0; j < size; ++j) {
      Floats c[kVectors];
      for (int v = 0; v < kVectors; ++v) c[v] = Load(t.vectors + j * t.entries + k + v * kLanes);
      for (int i = 0; i < N; ++i) {
        const Floats value = Broadcast(x[i * size + j]);
        for (int v = 0; v < kVectors; ++v) cost[i][v] = SubtractProduct(cost[i][v], value, c[v]);
      }
    }
    for (int v = 0; v < kVectors; ++v) {
      const Ints here = static_cast<int32_t>(k + v * kLanes) - Ints{};
      for (int i = 0; i < N; ++i) {
        const Ints less = cost[i][v] < lead[i].cost;
        lead[i].cost = less ? cost[i][v] : lead[i].cost;
        lead[i].entry = less ? here : lead[i].entry;
      }
    }
  }
  for (int i = 0; i < N; ++i) leads[i] = lead[i];
}

// Lane l becomes lane (l + By) % kLanes.
template <int By, class Vector>
inline Vector Turn(Vector v) {
#if defined(__AVX512F__)
  return __builtin_shufflevector(v, v, By % 16, (By + 1) % 16, (By + 2) % 16, (By + 3) % 16,
                                 (By + 4) % 16, (By + 5) % 16, (By + 6) % 16, (By + 7) % 16,
                                 (By + 8) % 16, (By + 9) % 16, (By + 10) % 16, (By + 11) % 16,
                                 (By + 12) % 16, (By + 13) % 16, (By + 14) % 16, (By + 15) % 16);
#elif defined(__AVX2__)
  return __builtin_shufflevector(v, v, By % 8, (By + 1) % 8, (By + 2) % 8, (By + 3) % 8,
                                 (By + 4) % 8, (By + 5) % 8, (By + 6) % 8, (By + 7) % 8);
#else
  return __builtin_shufflevector(v, v, By % 4, (By + 1) % 4, (By + 2) % 4, (By + 3) % 4);
#endif
}

// The better of every lane and the one `By` further.
template <int By>
inline void Halve(Floats& cost, Ints& entry) {
  const Floats other_cost = Turn<By>(cost);
  const Ints other_entry = Turn<By>(entry);
  const Ints other = (other_cost < cost) | ((other_cost == cost) & (other_entry < entry));
  cost = other ? other_cost : cost;
  entry = other ? other_entry : entry;
}

inline void Reduce(const Lead& lead, int32_t* entry, float* cost) {
  Ints lane;
  for (int l = 0; l < kLanes; ++l) lane[l] = l;
  Floats least = lead.cost;
  Ints first = lead.entry + lane;
  if constexpr (kLanes == 16) Halve<8>(least, first);
  if constexpr (kLanes >= 8) Halve<4>(least, first);
  Halve<2>(least, first);
  Halve<1>(least, first);
  *entry = first[0];
  *cost = least[0];
}

template <int Size>
inline void BestOfTile(const SearchTable& t, const float* x, const float* factor, int64_t rows,
                       int64_t begin, Lead* leads) {
  const int64_t end = begin + kTile < t.entries ? begin + kTile : t.entries;
  int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    SearchTile<kRows, Size>(t, x + i * t.size, factor + i, begin, end, leads + i);
  }
  for (; i < rows; ++i) SearchTile<1, Size>(t, x + i * t.size, factor + i, begin, end, leads + i);
}

void Best(const SearchTable& t, const float* x, const float* factor, int64_t count, int32_t* entry,
          float* cost) {
  Lead leads[kBatch];
  for (int64_t first = 0; first < count; first += kBatch) {
    const int64_t rows = count - first < kBatch ? count - first : kBatch;
    for (int64_t i = 0; i < rows; ++i) leads[i] = {Broadcast(kInfinity), Ints{}};
    for (int64_t begin = 0; begin < t.entries; begin += kTile) {
      if (t.size == 8) {
        BestOfTile<8>(t, x + first * t.size, factor + first, rows, begin, leads);
      } else {
        BestOfTile<0>(t, x + first * t.size, factor + first, rows, begin, leads);
      }
    }
    for (int64_t i = 0; i < rows; ++i) Reduce(leads[i], entry + first + i, cost + first + i);
  }
}

void Costs(const SearchTable& t, const float* x, float factor, float* out) {
  for (int64_t k = 0; k < t.entries; k += kLanes) {
    Floats cost = Broadcast(factor) * Load(t.penalties + k);
    for (int j = 0; j < t.size; ++j) {
      cost = SubtractProduct(cost, Broadcast(x[j]), Load(t.vectors + j * t.entries + k));
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

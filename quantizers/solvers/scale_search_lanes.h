// The body of scale_search.h, compiled once per instruction set by a translation unit that defines
// QUANTD_SCALE_SEARCH_ISA. Nothing here may be shared between those units: everything is in their
// own namespace, and no library header with inline functions is included.
#ifndef QUANTD_SCALE_SEARCH_ISA
#error "define QUANTD_SCALE_SEARCH_ISA first"
#endif

#include <cstdint>

#include "quantizers/solvers/scale_search.h"

namespace quantd {
namespace QUANTD_SCALE_SEARCH_ISA {
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

constexpr float kTiny = 1e-15f;  // blocks below are taken for zero

inline Floats Broadcast(float v) { return v - Floats{}; }
inline Ints BroadcastInt(int v) { return v - Ints{}; }
inline Floats AbsOf(Floats v) {
  const Ints bits = reinterpret_cast<Ints>(v) & 0x7fffffff;
  return reinterpret_cast<Floats>(bits);
}
// Half to even by adding 1.5 * 2^23, for |v| < 2^22; upstream's results for inf and NaN as well.
inline Ints NearestInt(Floats v) {
  const Ints bits = reinterpret_cast<Ints>(v + 12582912.f);
  return (bits & 0x7fffff) - 0x400000;
}
inline Ints Clamp(Ints v, int low, int high) {
  const Ints lows = BroadcastInt(low);
  const Ints highs = BroadcastInt(high);
  v = v < highs ? v : highs;
  return v > lows ? v : lows;
}
inline Floats ToFloats(Ints v) { return __builtin_convertvector(v, Floats); }
inline bool Any(Ints mask) {
  int32_t any = 0;
  for (int k = 0; k < kLanes; ++k) any |= mask[k];
  return any != 0;
}

// Element i of kLanes blocks in out[i]; lanes past the end repeat the last block.
template <int N>
inline void LoadTransposed(const float* x, int64_t first, int64_t blocks, Floats* out) {
  alignas(64) float staged[N][kLanes];
  for (int k = 0; k < kLanes; ++k) {
    const int64_t b = first + k < blocks ? first + k : blocks - 1;
    for (int i = 0; i < N; ++i) staged[i][k] = x[b * N + i];
  }
  for (int i = 0; i < N; ++i) __builtin_memcpy(&out[i], staged[i], sizeof(Floats));
}
inline void StoreLanes(Floats v, int64_t first, int64_t blocks, float* out) {
  for (int k = 0; k < kLanes && first + k < blocks; ++k) out[first + k] = v[k];
}
template <int N>
inline void StoreCodes(const Ints* codes, int64_t first, int64_t blocks, uint8_t* out) {
  alignas(64) int32_t staged[N][kLanes];
  for (int i = 0; i < N; ++i) __builtin_memcpy(staged[i], &codes[i], sizeof(Ints));
  for (int k = 0; k < kLanes && first + k < blocks; ++k) {
    for (int i = 0; i < N; ++i) out[(first + k) * N + i] = static_cast<uint8_t>(staged[i][k]);
  }
}

template <int N>
inline void LoadWeights(ErrorWeight kind, const Floats* x, const float* given, int64_t first,
                        int64_t blocks, Floats* w) {
  if (kind == ErrorWeight::kGiven) {
    LoadTransposed<N>(given, first, blocks, w);
  } else if (kind == ErrorWeight::kSquare) {
    for (int i = 0; i < N; ++i) w[i] = x[i] * x[i];
  } else if (kind == ErrorWeight::kMagnitude) {
    for (int i = 0; i < N; ++i) w[i] = AbsOf(x[i]);
  } else {
    Floats mean{};
    for (int i = 0; i < N; ++i) mean += x[i] * x[i];
    mean /= static_cast<float>(N);
    for (int k = 0; k < kLanes; ++k) mean[k] = __builtin_sqrtf(mean[k]);
    for (int i = 0; i < N; ++i) w[i] = mean + AbsOf(x[i]);
  }
}

template <int N>
struct AffineLanes {
  Floats x[N];
  Floats w[N];
  Floats level[N];  // codes of the trial
  Floats sum_w, sum_x, low, high;
  Floats scale;
  Floats error;                    // of the best fit so far
  Floats code_scale, code_origin;  // what the codes of the best fit were made with

  void Measure() {
    low = high = x[0];
    sum_w = w[0];
    sum_x = w[0] * x[0];
    for (int i = 1; i < N; ++i) {
      low = x[i] < low ? x[i] : low;
      high = x[i] > high ? x[i] : high;
      sum_w += w[i];
      sum_x += w[i] * x[i];
    }
    low = low > 0.f ? Floats{} : low;
  }

  template <bool kAbsolute>
  Floats ErrorOf(Floats s, Floats m) const {
    Floats sum{};
    for (int i = 0; i < N; ++i) {
      const Floats diff = s * level[i] + m - x[i];
      sum += w[i] * (kAbsolute ? AbsOf(diff) : diff * diff);
    }
    return sum;
  }

  template <bool kAbsolute>
  void Start(int max_code) {
    code_scale = static_cast<float>(max_code) / (high - low);
    code_origin = low;
    scale = 1.f / code_scale;
    for (int i = 0; i < N; ++i) {
      level[i] = ToFloats(Clamp(NearestInt(code_scale * (x[i] - low)), 0, max_code));
    }
    error = ErrorOf<kAbsolute>(scale, low);
  }

  template <bool kAbsolute>
  void Try(float numerator, int max_code) {
    const Floats inverse = numerator / (high - low);
    Floats sum_l{}, sum_l2{}, sum_xl{};
    for (int i = 0; i < N; ++i) {
      const Floats l = ToFloats(Clamp(NearestInt(inverse * (x[i] - low)), 0, max_code));
      level[i] = l;
      const Floats wl = w[i] * l;
      sum_l += wl;
      sum_l2 += wl * l;
      sum_xl += wl * x[i];
    }
    const Floats determinant = sum_w * sum_l2 - sum_l * sum_l;
    Floats s = (sum_w * sum_xl - sum_x * sum_l) / determinant;
    Floats m = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
    const Ints above = m > 0.f;
    m = above ? Floats{} : m;
    s = above ? sum_xl / sum_l2 : s;
    const Floats trial = ErrorOf<kAbsolute>(s, m);
    const Ints better = (determinant > 0.f) & (trial < error);
    error = better ? trial : error;
    code_scale = better ? inverse : code_scale;
    code_origin = better ? low : code_origin;
    scale = better ? s : scale;
    low = better ? m : low;  // upstream searches on from the refitted minimum
  }
};

template <int N, bool kAbsolute>
void AffineBlocks(const AffineSearch& search, const float* x, const float* weights, int64_t blocks,
                  float* scale, float* negated_minimum, uint8_t* codes) {
  for (int64_t first = 0; first < blocks; first += kLanes) {
    AffineLanes<N> fit;
    LoadTransposed<N>(x, first, blocks, fit.x);
    LoadWeights<N>(search.weight, fit.x, weights, first, blocks, fit.w);
    fit.Measure();
    const Floats start = fit.low;
    const Ints flat = fit.low == fit.high;
    fit.template Start<kAbsolute>(search.max_code);
    for (int i = 0; i <= search.steps; ++i) {
      const float numerator =
          search.first + search.step * static_cast<float>(i) + static_cast<float>(search.max_code);
      fit.template Try<kAbsolute>(numerator, search.max_code);
    }
    Ints result[N];
    for (int i = 0; i < N; ++i) {
      result[i] =
          Clamp(NearestInt(fit.code_scale * (fit.x[i] - fit.code_origin)), 0, search.max_code);
      result[i] = flat ? Ints{} : result[i];
    }
    StoreLanes(flat ? Floats{} : fit.scale, first, blocks, scale);
    StoreLanes(flat ? -start : -fit.low, first, blocks, negated_minimum);
    StoreCodes<N>(result, first, blocks, codes);
  }
}

void Affine(const AffineSearch& search, const float* x, const float* weights, int64_t blocks,
            float* scale, float* negated_minimum, uint8_t* codes) {
  const auto run = search.block == 16
                       ? (search.absolute_error ? AffineBlocks<16, true> : AffineBlocks<16, false>)
                       : (search.absolute_error ? AffineBlocks<32, true> : AffineBlocks<32, false>);
  run(search, x, weights, blocks, scale, negated_minimum, codes);
}

// The element with the largest magnitude (the first of equals), with its sign.
template <int N>
inline Floats Extreme(const Floats* x, Floats* magnitude) {
  Floats largest{}, extreme{};
  for (int i = 0; i < N; ++i) {
    const Floats a = AbsOf(x[i]);
    const Ints larger = a > largest;
    extreme = larger ? x[i] : extreme;
    largest = larger ? a : largest;
  }
  *magnitude = largest;
  return extreme;
}

template <int N>
void SymmetricBlocks(const SymmetricSearch& search, const float* values, const float* weights,
                     int64_t blocks, float* scale, uint8_t* codes) {
  const int n = search.max_code;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    Floats x[N], w[N], wx[N];
    LoadTransposed<N>(values, first, blocks, x);
    LoadWeights<N>(search.weight, x, weights, first, blocks, w);
    for (int i = 0; i < N; ++i) wx[i] = w[i] * x[i];
    Floats magnitude;
    const Floats extreme = Extreme<N>(x, &magnitude);
    const Ints empty = magnitude < kTiny;
    Floats best{}, fitted{}, code_scale{};
    for (int trial = -10; trial <= 9; ++trial) {
      // The plain scale comes first, then those of -9..9 except 0.
      if (trial == 0) continue;
      const bool plain = trial == -10;
      const float numerator = plain ? static_cast<float>(-n)
                                    : -(static_cast<float>(n) + 0.1f * static_cast<float>(trial));
      const Floats inverse = numerator / extreme;
      Floats sum_lx{}, sum_l2{};
      for (int i = 0; i < N; ++i) {
        const Floats l = ToFloats(Clamp(NearestInt(inverse * x[i]), -n, n - 1));
        sum_lx += wx[i] * l;
        sum_l2 += w[i] * l * l;
      }
      const Floats s = sum_l2 > 0.f ? sum_lx / sum_l2 : Floats{};
      const Ints better =
          plain ? BroadcastInt(-1) : ((sum_l2 > 0.f) & (sum_lx * sum_lx > best * sum_l2));
      fitted = better ? s : fitted;
      best = better ? s * sum_lx : best;
      code_scale = better ? inverse : code_scale;
    }
    Ints result[N];
    for (int i = 0; i < N; ++i) {
      result[i] = Clamp(NearestInt(code_scale * x[i]), -n, n - 1) + n;
      result[i] = empty ? Ints{} : result[i];
    }
    StoreLanes(empty ? Floats{} : fitted, first, blocks, scale);
    StoreCodes<N>(result, first, blocks, codes);
  }
}

void Symmetric(const SymmetricSearch& search, const float* x, const float* weights, int64_t blocks,
               float* scale, uint8_t* codes) {
  const auto run = search.block == 16 ? SymmetricBlocks<16> : SymmetricBlocks<32>;
  run(search, x, weights, blocks, scale, codes);
}

// One sweep over the codes; whether any lane changed one.
template <int N>
inline bool DescentSweep(int n, const Floats* x, Floats* l, Floats& sum_lx, Floats& sum_l2) {
  Ints changed{};
  for (int i = 0; i < N; ++i) {
    const Floats w = x[i] * x[i];
    const Floats wx = w * x[i];
    Floats slx = sum_lx - wx * l[i];
    Floats sl2 = sum_l2 - w * l[i] * l[i];
    const Ints positive = slx > 0.f;
    const Floats next = ToFloats(Clamp(NearestInt(x[i] * sl2 / slx), -n, n - 1));
    slx += wx * next;
    sl2 += w * next * next;
    const Ints take =
        positive & (next != l[i]) & (sl2 > 0.f) & (slx * slx * sum_l2 > sum_lx * sum_lx * sl2);
    l[i] = take ? next : l[i];
    sum_lx = take ? slx : sum_lx;
    sum_l2 = take ? sl2 : sum_l2;
    changed |= take;
  }
  return Any(changed);
}

void Descent(int max_code, const float* values, int64_t blocks, float* scale, uint8_t* codes) {
  constexpr int N = 16;
  const int n = max_code;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    Floats x[N], l[N];
    LoadTransposed<N>(values, first, blocks, x);
    Floats magnitude;
    const Floats inverse = static_cast<float>(-n) / Extreme<N>(x, &magnitude);
    const Ints empty = magnitude < kTiny;
    Floats sum_lx{}, sum_l2{};
    for (int i = 0; i < N; ++i) {
      l[i] = ToFloats(Clamp(NearestInt(inverse * x[i]), -n, n - 1));
      const Floats w = x[i] * x[i];
      sum_lx += w * x[i] * l[i];
      sum_l2 += w * l[i] * l[i];
    }
    for (int sweep = 0; sweep < 5; ++sweep) {
      if (!DescentSweep<N>(n, x, l, sum_lx, sum_l2)) break;
    }
    Ints result[N];
    for (int i = 0; i < N; ++i) {
      result[i] = __builtin_convertvector(l[i], Ints) + n;
      result[i] = empty ? Ints{} : result[i];
    }
    const Floats s = (empty | (sum_l2 == 0.f)) ? Floats{} : sum_lx / sum_l2;
    StoreLanes(s, first, blocks, scale);
    StoreCodes<N>(result, first, blocks, codes);
  }
}

// Table value nearest to v. Differences to the two neighbours are exact near their midpoint, so
// that comparing with the midpoint decides as upstream does; NaN gives the last value.
inline Floats NearestValue(const TableSearch& search, Floats v) {
  Floats q = Broadcast(search.values[15]);
  for (int i = 14; i >= 0; --i) q = v < search.midpoints[i] ? Broadcast(search.values[i]) : q;
  return q;
}

void Table(const TableSearch& search, const float* values, const float* weights, int64_t blocks,
           float* scale) {
  constexpr int N = 32;
  for (int64_t first = 0; first < blocks; first += kLanes) {
    Floats x[N], w[N];
    LoadTransposed<N>(values, first, blocks, x);
    LoadWeights<N>(search.weight, x, weights, first, blocks, w);
    Floats magnitude;
    const Floats extreme = Extreme<N>(x, &magnitude);
    const Ints empty = magnitude < kTiny;
    Floats best{}, fitted{};
    for (int trial = -search.tries - 1; trial <= search.tries; ++trial) {
      const bool plain = trial < -search.tries;
      const Floats inverse = plain ? 1.f / (-extreme / search.values[0])
                                   : (static_cast<float>(trial) + search.values[0]) / extreme;
      Floats sum_qx{}, sum_q2{};
      for (int i = 0; i < N; ++i) {
        const Floats q = NearestValue(search, inverse * x[i]);
        const Floats wq = w[i] * q;
        sum_qx += wq * x[i];
        sum_q2 += wq * q;
      }
      const Floats d = sum_q2 > 0.f ? sum_qx / sum_q2 : Floats{};
      const Ints better =
          plain ? BroadcastInt(-1) : ((sum_q2 > 0.f) & (sum_qx * sum_qx > best * sum_q2));
      fitted = better ? d : fitted;
      best = better ? d * sum_qx : best;
    }
    StoreLanes(empty ? Floats{} : fitted, first, blocks, scale);
  }
}

void RoundToScale(int block, const float* x, const float* scale, const float* shift, int low,
                  int high, int64_t blocks, uint8_t* codes) {
  for (int64_t b = 0; b < blocks; ++b) {
    const float d = scale[b];
    if (d == 0.f) continue;
    const float s = shift != nullptr ? shift[b] : 0.f;
    for (int i = 0; i < block; i += kLanes) {
      Floats v;
      __builtin_memcpy(&v, x + b * block + i, sizeof(v));
      const Ints l = Clamp(NearestInt((v + s) / d), low, high) - low;
      for (int k = 0; k < kLanes; ++k) codes[b * block + i + k] = static_cast<uint8_t>(l[k]);
    }
  }
}

void NearestInTable(const TableSearch& search, const float* x, const float* inverse_scale,
                    int64_t blocks, uint8_t* codes) {
  constexpr int N = 32;
  for (int64_t b = 0; b < blocks; ++b) {
    for (int i = 0; i < N; i += kLanes) {
      Floats v;
      __builtin_memcpy(&v, x + b * N + i, sizeof(v));
      v *= inverse_scale[b];
      Ints l = BroadcastInt(15);
      for (int t = 0; t < 15; ++t) l += v < search.midpoints[t];
      for (int k = 0; k < kLanes; ++k) codes[b * N + i + k] = static_cast<uint8_t>(l[k]);
    }
  }
}

}  // namespace

extern const ScaleSearch kScaleSearch;
const ScaleSearch kScaleSearch = {
#if defined(__AVX512F__)
    "avx512",
#elif defined(__AVX2__)
    "avx2",
#else
    "baseline",
#endif
    Affine,   Symmetric, Descent, Table, RoundToScale, NearestInTable};

}  // namespace QUANTD_SCALE_SEARCH_ISA
}  // namespace quantd

#include "quantizers/solvers/run_loops.h"

#include <bit>
#include <cmath>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/instruction_set.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int kLanes = 32;

// Codes of a FourBitTable for as many values as fill a vector: how many midpoints are below, and
// the code of that.
namespace baseline {
constexpr char kIsa[] = "baseline";
constexpr int kVectorLanes = 64;
class FourBitLookup {
 public:
  explicit FourBitLookup(const FourBitTable& table) : table_(table) {}
  void Codes(const float* values, int32_t* codes) const {
    int32_t rank[kVectorLanes] = {};
    for (const float midpoint : table_.midpoints) {
      for (int i = 0; i < kVectorLanes; ++i) rank[i] += values[i] > midpoint ? 1 : 0;
    }
    for (int i = 0; i < kVectorLanes; ++i) codes[i] = table_.code_of_rank[rank[i]];
  }

 private:
  const FourBitTable& table_;
};
#include "quantizers/solvers/run_loops.inc"
}  // namespace baseline

#if defined(__x86_64__)
#include "kernels/cpu/avx2_begin.inc"
namespace avx2 {
constexpr char kIsa[] = "avx2";
constexpr int kVectorLanes = 8;
class FourBitLookup {
 public:
  explicit FourBitLookup(const FourBitTable& table) {
    for (int half = 0; half < 2; ++half) {
      for (int i = 0; i < 8; ++i) {
        const int rank = 8 * half + i;
        midpoints_[half][i] = rank < 15 ? table.midpoints[rank] : 2.0f;
        codes_[half][i] = table.code_of_rank[rank];
      }
    }
  }
  void Codes(const float* values, int32_t* codes) const {
    const __m256 x = _mm256_loadu_ps(values);
    // Of the midpoints the eighth decides which eight are searched.
    const __m256 high = _mm256_cmp_ps(x, _mm256_set1_ps(midpoints_[0][7]), _CMP_GT_OQ);
    const __m256 low_midpoints = _mm256_loadu_ps(midpoints_[0]);
    const __m256 high_midpoints = _mm256_loadu_ps(midpoints_[1]);
    __m256i rank = _mm256_setzero_si256();  // within the eight
    for (const int step : {4, 2, 1}) {
      const __m256i index = _mm256_add_epi32(rank, _mm256_set1_epi32(step - 1));
      const __m256 midpoint =
          _mm256_blendv_ps(_mm256_permutevar8x32_ps(low_midpoints, index),
                           _mm256_permutevar8x32_ps(high_midpoints, index), high);
      const __m256i above = _mm256_castps_si256(_mm256_cmp_ps(x, midpoint, _CMP_GT_OQ));
      rank = _mm256_add_epi32(rank, _mm256_and_si256(above, _mm256_set1_epi32(step)));
    }
    const __m256i low_codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes_[0]));
    const __m256i high_codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes_[1]));
    const __m256i code = _mm256_blendv_epi8(_mm256_permutevar8x32_epi32(low_codes, rank),
                                            _mm256_permutevar8x32_epi32(high_codes, rank),
                                            _mm256_castps_si256(high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes), code);
  }

 private:
  float midpoints_[2][8];
  int32_t codes_[2][8];
};
#include "quantizers/solvers/run_loops.inc"
}  // namespace avx2
#include "kernels/cpu/target_end.inc"

#include "kernels/cpu/avx512_begin.inc"
namespace avx512 {
constexpr char kIsa[] = "avx512";
constexpr int kVectorLanes = 16;
class FourBitLookup {
 public:
  explicit FourBitLookup(const FourBitTable& table) {
    for (int rank = 0; rank < 16; ++rank) {
      midpoints_[rank] = rank < 15 ? table.midpoints[rank] : 2.0f;
      codes_[rank] = table.code_of_rank[rank];
    }
  }
  void Codes(const float* values, int32_t* codes) const {
    const __m512 x = _mm512_loadu_ps(values);
    const __m512 midpoints = _mm512_loadu_ps(midpoints_);
    __m512i rank = _mm512_setzero_si512();
    for (const int step : {8, 4, 2, 1}) {
      const __m512i index = _mm512_add_epi32(rank, _mm512_set1_epi32(step - 1));
      const __m512 midpoint = _mm512_permutexvar_ps(index, midpoints);
      const __mmask16 above = _mm512_cmp_ps_mask(x, midpoint, _CMP_GT_OQ);
      rank = _mm512_mask_add_epi32(rank, above, rank, _mm512_set1_epi32(step));
    }
    _mm512_storeu_si512(codes, _mm512_permutexvar_epi32(rank, _mm512_loadu_si512(codes_)));
  }

 private:
  float midpoints_[16];
  int32_t codes_[16];
};
#include "quantizers/solvers/run_loops.inc"
}  // namespace avx512
#include "kernels/cpu/target_end.inc"
#endif

const Variants<RunLoops>& VariantsOfThisCpu() {
#if defined(__x86_64__)
  static const Variants<RunLoops> variants(&baseline::kLoops, &avx2::kLoops, &avx512::kLoops);
#else
  static const Variants<RunLoops> variants(&baseline::kLoops, nullptr, nullptr);
#endif
  return variants;
}

}  // namespace

const RunLoops& BestRunLoops() { return VariantsOfThisCpu().best(); }

const RunLoops* const* AllRunLoops() { return VariantsOfThisCpu().all(); }

}  // namespace quantd

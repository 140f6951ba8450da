// The table of AVX2 kernels, with its row operations and attention.
#include <immintrin.h>

#include "core/instruction_set.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/vector_types.h"

#include "kernels/cpu/avx2_begin.inc"

namespace quantd::cpu::avx2 {
namespace {

constexpr int kLanes = 8;
using Vec = Vectors<kLanes>::Floats;
constexpr int kScoreQueries = 6, kValueQueries = 6, kValueWidth = 2;

inline __attribute__((always_inline)) Vec LoadHalf(const uint16_t* p) {
  return (Vec)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
inline __attribute__((always_inline)) void StoreHalf(const Vec& v, uint16_t* p) {
  const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
}
inline __attribute__((always_inline)) Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

#include "kernels/cpu/row_ops.inc"

#include "kernels/cpu/attention_tile.inc"

}  // namespace
}  // namespace quantd::cpu::avx2

#include "kernels/cpu/target_end.inc"

namespace quantd::cpu::avx2 {
namespace {

bool Supported() { return ThisInstructionSet() >= InstructionSet::kAvx2; }

}  // namespace

const KernelTable& Table() {
  static constexpr KernelTable kTable = {
      .name = "avx2",
      .extensions = [] { return std::string("fma"); },
      .supported = Supported,
      .int_tokens = kIntTokens,
      .dense_tokens = kDenseTokens,
      .code_tokens = kCodeTokens,
      .bf16_format = XFormat::kF32,
      .fp8_format = XFormat::kF32,
      .int_tile = RunIntTile,
      .float_tile = RunFloatTile,
      .attention_tile = Attend,
      .normalize = NormalizeRow,
      .rotate = RotateRow,
      .quantize = QuantizeRow,
      .split_bf16 = SplitBf16Row,
      .to_f16 = F16Row,
      .activate = ActivateAny,
      .silu_mul = SiluMul,
  };
  return kTable;
}

}  // namespace quantd::cpu::avx2

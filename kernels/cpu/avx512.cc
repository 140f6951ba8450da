// The table of AVX-512 kernels, with its row operations and attention.
#include <immintrin.h>

#include "core/instruction_set.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/tiles.h"
#include "kernels/cpu/vector_types.h"

#include "kernels/cpu/avx512_begin.inc"

namespace quantd::cpu::avx512 {
namespace {

constexpr int kLanes = 16;
using Vec = Vectors<kLanes>::Floats;
constexpr int kScoreQueries = 8, kValueQueries = 4, kValueWidth = 4;

inline __attribute__((always_inline)) Vec LoadHalf(const uint16_t* p) {
  return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __attribute__((always_inline)) void StoreHalf(const Vec& v, uint16_t* p) {
  const __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
}
inline __attribute__((always_inline)) Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) {
  return (Vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

#include "kernels/cpu/row_ops.inc"

#include "kernels/cpu/attention_tile.inc"

}  // namespace
}  // namespace quantd::cpu::avx512

#include "kernels/cpu/target_end.inc"

namespace quantd::cpu::avx512 {
namespace {

bool Supported() { return ThisInstructionSet() == InstructionSet::kAvx512; }

bool HasBf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi");
}

}  // namespace

const KernelTable& Table() {
  static const KernelTable table = {
      .name = "avx512",
      .extensions = [] { return std::string(HasBf16() ? "vnni bf16" : "vnni"); },
      .supported = Supported,
      .int_tokens = kIntTokens,
      .dense_tokens = kDenseTokens,
      .code_tokens = kCodeTokens,
      .bf16_format = HasBf16() ? XFormat::kBf16Pairs : XFormat::kF32,
      .fp8_format = HasBf16() ? XFormat::kBf16Quads : XFormat::kF32,
      .int_tile = RunIntTile,
      .float_tile = HasBf16() ? RunBf16Tile : RunFloatTile,
      .attention_tile = Attend,
      .normalize = NormalizeRow,
      .rotate = RotateRow,
      .quantize = QuantizeRow,
      .split_bf16 = SplitBf16Row,
      .to_f16 = F16Row,
      .activate = ActivateAny,
      .silu_mul = SiluMul,
  };
  return table;
}

}  // namespace quantd::cpu::avx512

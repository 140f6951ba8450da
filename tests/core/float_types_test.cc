#include "core/float_types.h"

#include <gtest/gtest.h>
#include <immintrin.h>

namespace quantd {
namespace {

TEST(FloatTypes, F16RoundTripsEveryFiniteCode) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    if ((bits & 0x7c00u) == 0x7c00u && (bits & 0x3ffu)) continue;  // NaN payloads are not kept
    EXPECT_EQ(F16FromFloat(FloatFromF16(static_cast<uint16_t>(bits))), bits);
  }
}

// By the processor's instruction: clang 14 has no _Float16 for x86-64.
__attribute__((target("f16c"))) uint16_t F16ByProcessor(float value) {
  return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
}

TEST(FloatTypes, F16AgreesWithTheProcessor) {
  // clang 14 cannot ask for f16c; every processor with AVX2 has it.
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "no F16C";
  for (uint64_t bits = 0; bits < 0x100000000ull; bits += 65521) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(F16FromFloat(value), F16ByProcessor(value)) << value;
  }
}

TEST(FloatTypes, E4M3RoundTripsAndRoundsTiesToEven) {
  for (int code = 0; code < 256; ++code) {
    if ((code & 0x7f) == 0x7f) continue;
    EXPECT_EQ(E4M3FromFloat(FloatFromE4M3(static_cast<uint8_t>(code))), code);
  }
  EXPECT_EQ(FloatFromE4M3(0x7e), 448.0f);
  EXPECT_EQ(FloatFromE4M3(0x01), 0.001953125f);
  EXPECT_EQ(E4M3FromFloat(1.0625f), E4M3FromFloat(1.0f));   // tie, even mantissa below
  EXPECT_EQ(E4M3FromFloat(1.1875f), E4M3FromFloat(1.25f));  // tie, even mantissa above
  EXPECT_EQ(E4M3FromFloat(1000.0f), 0x7f);
  EXPECT_EQ(E4M3FromFloat(0.0009765625f), 0);  // half of the smallest subnormal ties to zero
}

TEST(FloatTypes, Bf16RoundsTiesToEven) {
  EXPECT_EQ(Bf16FromFloat(1.0f), 0x3f80);
  EXPECT_EQ(Bf16FromFloat(std::bit_cast<float>(0x3f808000u)), 0x3f80);
  EXPECT_EQ(Bf16FromFloat(std::bit_cast<float>(0x3f818000u)), 0x3f82);
}

}  // namespace
}  // namespace quantd

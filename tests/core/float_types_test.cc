#include "core/float_types.h"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <vector>

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

// Rows go by vectors where the processor converts; NaNs among the numbers must not matter.
TEST(FloatTypes, RowsAreConvertedAsSingleNumbers) {
  std::vector<uint16_t> codes;
  for (uint32_t bits = 0; bits < 0x10000u; bits += 7) codes.push_back(static_cast<uint16_t>(bits));
  const auto count = static_cast<int64_t>(codes.size());
  const TensorView view{DType::kF16, {count}, std::as_bytes(std::span(codes))};
  std::vector<float> wide(codes.size());
  LoadFloats(view, 0, count, wide.data());
  for (size_t i = 0; i < codes.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(wide[i]), std::bit_cast<uint32_t>(FloatFromF16(codes[i])));
  }
  std::vector<float> values;
  for (uint64_t bits = 0; bits < 0x100000000ull; bits += 655211) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  values[3] = values[18] = std::bit_cast<float>(0x7f800001u);
  const auto n = static_cast<int64_t>(values.size());
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF8E4M3}) {
    std::vector<std::byte> narrow(values.size() * SizeOf(dtype)), one(SizeOf(dtype));
    StoreFloats(dtype, values.data(), n, narrow.data());
    std::vector<float> rounded = values;
    RoundAllTo(dtype, rounded.data(), n);
    for (size_t i = 0; i < values.size(); ++i) {
      StoreFloats(dtype, &values[i], 1, one.data());
      ASSERT_EQ(std::memcmp(one.data(), narrow.data() + i * one.size(), one.size()), 0) << i;
      ASSERT_EQ(std::bit_cast<uint32_t>(rounded[i]),
                std::bit_cast<uint32_t>(RoundTo(dtype, values[i])));
    }
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

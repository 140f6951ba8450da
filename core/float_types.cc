#include "core/float_types.h"

#include <algorithm>
#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "core/instruction_set.h"

namespace quantd {
namespace {

// Rounds to a small float format with `exponent_bits`/`mantissa_bits` whose exponent bias is
// `bias`. Returns the magnitude bits; may exceed the format's largest finite code, which the caller
// handles.
uint32_t RoundMagnitude(float magnitude, int mantissa_bits, int bias) {
  const uint32_t bits = std::bit_cast<uint32_t>(magnitude);
  const int exponent = static_cast<int>(bits >> 23) - 127;
  const int smallest_normal = 1 - bias;
  if (exponent < smallest_normal) {
    // Subnormal: a multiple of 2^(smallest_normal - mantissa_bits). Scaling by a power of two is
    // exact.
    const float scaled = std::ldexp(magnitude, mantissa_bits - smallest_normal);
    return static_cast<uint32_t>(std::nearbyint(scaled));
  }
  const int drop = 23 - mantissa_bits;
  const uint32_t half = (1u << (drop - 1)) - 1u + ((bits >> drop) & 1u);
  return ((bits + half) >> drop) - (static_cast<uint32_t>(127 - bias) << mantissa_bits);
}

float Expand(uint32_t magnitude, int mantissa_bits, int bias) {
  const uint32_t exponent = magnitude >> mantissa_bits;
  const uint32_t mantissa = magnitude & ((1u << mantissa_bits) - 1u);
  if (exponent == 0) return std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  return std::ldexp(static_cast<float>(mantissa | (1u << mantissa_bits)),
                    static_cast<int>(exponent) - bias - mantissa_bits);
}

template <size_t N, class F>
std::array<float, N> MakeTable(F decode) {
  std::array<float, N> table;
  for (size_t i = 0; i < N; ++i) table[i] = decode(static_cast<uint32_t>(i));
  return table;
}

template <class T>
T LoadAs(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(T));
  return value;
}

#if defined(__x86_64__)
// Eight at a time by the processor's own conversion, which agrees but for the bits of a NaN. How
// many were converted: up to the first eight that hold one.
__attribute__((target("avx,f16c"))) int64_t WidenF16Vectors(const std::byte* bytes, int64_t count,
                                                            float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i * 2));
    const __m256 wide = _mm256_cvtph_ps(half);
    if (_mm256_movemask_ps(_mm256_cmp_ps(wide, wide, _CMP_UNORD_Q)) != 0) break;
    _mm256_storeu_ps(out + i, wide);
  }
  return i;
}
__attribute__((target("avx,f16c"))) int64_t NarrowF16Vectors(const float* values, int64_t count,
                                                             std::byte* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 wide = _mm256_loadu_ps(values + i);
    if (_mm256_movemask_ps(_mm256_cmp_ps(wide, wide, _CMP_UNORD_Q)) != 0) break;
    const __m128i half = _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * 2), half);
  }
  return i;
}
// In place: to float16 and back.
__attribute__((target("avx,f16c"))) int64_t RoundF16Vectors(float* values, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 wide = _mm256_loadu_ps(values + i);
    if (_mm256_movemask_ps(_mm256_cmp_ps(wide, wide, _CMP_UNORD_Q)) != 0) break;
    const __m128i half = _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(half));
  }
  return i;
}
#else
int64_t WidenF16Vectors(const std::byte*, int64_t, float*) { return 0; }
int64_t NarrowF16Vectors(const float*, int64_t, std::byte*) { return 0; }
int64_t RoundF16Vectors(float*, int64_t) { return 0; }
#endif

// Calls vectors(first) for as many elements from `first` on as it takes, and plain(first, count)
// for eight of the others at a time.
template <class Vectors, class Plain>
void InVectors(int64_t count, Vectors vectors, Plain plain) {
  const bool has_f16c = ThisInstructionSet() >= InstructionSet::kAvx2;
  for (int64_t i = 0; i < count;) {
    if (has_f16c) i += vectors(i);
    const int64_t rest = has_f16c ? std::min<int64_t>(8, count - i) : count - i;
    plain(i, rest);
    i += rest;
  }
}

template <class T, class F>
void Widen(const std::byte* bytes, int64_t count, float* out, F convert) {
  for (int64_t i = 0; i < count; ++i) out[i] = convert(LoadAs<T>(bytes + i * sizeof(T)));
}

template <class T>
void WidenPlain(const std::byte* bytes, int64_t count, float* out) {
  Widen<T>(bytes, count, out, [](T value) { return static_cast<float>(value); });
}

template <class T, class F>
void Narrow(const float* values, int64_t count, std::byte* out, F convert) {
  for (int64_t i = 0; i < count; ++i) {
    const T value = convert(values[i]);
    std::memcpy(out + i * sizeof(T), &value, sizeof(T));
  }
}

// Without branches, so that loops of it vectorize.
inline float WidenF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  const uint32_t normal = (magnitude << 13) + ((127u - 15u) << 23);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t special = 0x7f800000u | (magnitude << 13);
  const uint32_t finite = magnitude < 0x400u ? subnormal : normal;
  return std::bit_cast<float>(sign | (magnitude < 0x7c00u ? finite : special));
}

inline uint16_t NarrowF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  // Normal (from 2^-14): drop 13 mantissa bits and rebias. Subnormal: steps of 2^-24, the ulp of
  // 0.5.
  const uint32_t normal = ((magnitude + 0xfffu + ((magnitude >> 13) & 1u)) >> 13) - (112u << 10);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const uint32_t large = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  return static_cast<uint16_t>(sign | (magnitude < 0x477ff000u ? finite : large));
}

template <class F>
void RoundEach(float* values, int64_t count, F round) {
  for (int64_t i = 0; i < count; ++i) values[i] = round(values[i]);
}

}  // namespace

float FloatFromF16(uint16_t bits) { return WidenF16(bits); }
uint16_t F16FromFloat(float value) { return NarrowF16(value); }

float FloatFromE4M3(uint8_t bits) {
  static const auto table = MakeTable<256>([](uint32_t i) {
    if ((i & 0x7fu) == 0x7fu) return std::bit_cast<float>(0x7fc00000u | ((i & 0x80u) << 24));
    const float magnitude = Expand(i & 0x7fu, 3, 7);
    return (i & 0x80u) ? -magnitude : magnitude;
  });
  return table[bits];
}

uint8_t E4M3FromFloat(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value) || std::isinf(value)) return sign | 0x7f;
  const uint32_t code = RoundMagnitude(std::fabs(value), 3, 7);
  return sign | static_cast<uint8_t>(code > 0x7e ? 0x7f : code);
}

float FloatFromE5M2(uint8_t bits) { return FloatFromF16(static_cast<uint16_t>(bits << 8)); }

uint8_t E5M2FromFloat(float value) {
  const uint8_t sign = std::signbit(value) ? 0x80 : 0;
  if (std::isnan(value)) return sign | 0x7f;
  if (std::isinf(value)) return sign | 0x7c;
  const uint32_t code = RoundMagnitude(std::fabs(value), 2, 15);
  return sign | static_cast<uint8_t>(code > 0x7c ? 0x7c : code);
}

float FloatFromE4M3FNUZ(uint8_t bits) {
  if (bits == 0x80u) return std::nanf("");
  const float magnitude = Expand(bits & 0x7fu, 3, 8);
  return (bits & 0x80u) ? -magnitude : magnitude;
}

uint8_t E4M3FNUZFromFloat(float value) {
  if (std::isnan(value) || std::isinf(value)) return 0x80;
  const uint32_t code = RoundMagnitude(std::fabs(value), 3, 8);
  if (code > 0x7f) return 0x80;
  return static_cast<uint8_t>(code != 0 && value < 0 ? code | 0x80u : code);
}

float FloatFromE8M0(uint8_t bits) {
  if (bits == 255) return std::nanf("");
  return std::ldexp(1.0f, static_cast<int>(bits) - 127);
}

float RoundTo(DType dtype, float value) {
  switch (dtype) {
    case DType::kBF16:
      return FloatFromBf16(Bf16FromFloat(value));
    case DType::kF16:
      return FloatFromF16(F16FromFloat(value));
    case DType::kF8E4M3:
      return FloatFromE4M3(E4M3FromFloat(value));
    case DType::kF8E5M2:
      return FloatFromE5M2(E5M2FromFloat(value));
    case DType::kF8E4M3FNUZ:
      return FloatFromE4M3FNUZ(E4M3FNUZFromFloat(value));
    default:
      return value;
  }
}

void RoundAllTo(DType dtype, float* values, int64_t count) {
  switch (dtype) {
    case DType::kF32:
      return;
    case DType::kBF16:
      return RoundEach(values, count, [](float v) { return FloatFromBf16(Bf16FromFloat(v)); });
    case DType::kF16:
      return InVectors(
          count, [&](int64_t i) { return RoundF16Vectors(values + i, count - i); },
          [&](int64_t i, int64_t n) {
            RoundEach(values + i, n, [](float v) { return WidenF16(NarrowF16(v)); });
          });
    default:
      return RoundEach(values, count, [dtype](float v) { return RoundTo(dtype, v); });
  }
}

float LoadFloat(const TensorView& view, int64_t index) {
  float value;
  LoadFloats(view, index, 1, &value);
  return value;
}

void LoadFloats(const TensorView& view, int64_t first, int64_t count, float* out) {
  const std::byte* bytes = view.bytes.data() + first * SizeOf(view.dtype);
  switch (view.dtype) {
    case DType::kF32:
      std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
      break;
    case DType::kBF16:
      Widen<uint16_t>(bytes, count, out, FloatFromBf16);
      break;
    case DType::kF16:
      InVectors(
          count, [&](int64_t i) { return WidenF16Vectors(bytes + i * 2, count - i, out + i); },
          [&](int64_t i, int64_t n) { Widen<uint16_t>(bytes + i * 2, n, out + i, WidenF16); });
      break;
    case DType::kF64:
      WidenPlain<double>(bytes, count, out);
      break;
    case DType::kF8E4M3:
      Widen<uint8_t>(bytes, count, out, FloatFromE4M3);
      break;
    case DType::kF8E5M2:
      Widen<uint8_t>(bytes, count, out, FloatFromE5M2);
      break;
    case DType::kF8E4M3FNUZ:
      Widen<uint8_t>(bytes, count, out, FloatFromE4M3FNUZ);
      break;
    case DType::kF8E8M0:
      Widen<uint8_t>(bytes, count, out, FloatFromE8M0);
      break;
    case DType::kBool:
    case DType::kU8:
      WidenPlain<uint8_t>(bytes, count, out);
      break;
    case DType::kI8:
      WidenPlain<int8_t>(bytes, count, out);
      break;
    case DType::kU16:
      WidenPlain<uint16_t>(bytes, count, out);
      break;
    case DType::kI16:
      WidenPlain<int16_t>(bytes, count, out);
      break;
    case DType::kU32:
      WidenPlain<uint32_t>(bytes, count, out);
      break;
    case DType::kI32:
      WidenPlain<int32_t>(bytes, count, out);
      break;
    case DType::kU64:
      WidenPlain<uint64_t>(bytes, count, out);
      break;
    case DType::kI64:
      WidenPlain<int64_t>(bytes, count, out);
      break;
  }
}

void StoreFloats(DType dtype, const float* values, int64_t count, std::byte* out) {
  switch (dtype) {
    case DType::kBF16:
      Narrow<uint16_t>(values, count, out, Bf16FromFloat);
      break;
    case DType::kF16:
      InVectors(
          count, [&](int64_t i) { return NarrowF16Vectors(values + i, count - i, out + i * 2); },
          [&](int64_t i, int64_t n) { Narrow<uint16_t>(values + i, n, out + i * 2, NarrowF16); });
      break;
    case DType::kF8E4M3:
      Narrow<uint8_t>(values, count, out, E4M3FromFloat);
      break;
    case DType::kF8E5M2:
      Narrow<uint8_t>(values, count, out, E5M2FromFloat);
      break;
    case DType::kF8E4M3FNUZ:
      Narrow<uint8_t>(values, count, out, E4M3FNUZFromFloat);
      break;
    case DType::kF64:
      Narrow<double>(values, count, out, [](float v) { return static_cast<double>(v); });
      break;
    default:
      std::memcpy(out, values, static_cast<size_t>(count) * sizeof(float));
      break;
  }
}

}  // namespace quantd

#include "quantizers/solvers/observer.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr float kEpsilon = 0x1p-23f;  // float32's, in every dtype

QuantizedTensor MakeTensorOf(const TensorView& weight, const BlockShape& block, Grid grid) {
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.block = block;
  out.grid = std::move(grid);
  out.dequantized_dtype = weight.dtype;
  out.scale_dtype = weight.dtype;
  return out;
}

float LargestOf(DType dtype) {
  return WithArithmetic(dtype, [](auto arithmetic) { return decltype(arithmetic)::kMax; });
}

// The stored scales in the dtype asked for.
void StoreScales(std::optional<DType> dtype, QuantizedTensor* out) {
  if (!dtype) return;
  out->scale_dtype = *dtype;
  for (float& scale : out->scale) {
    scale = std::clamp(RoundTo(*dtype, scale), kEpsilon, LargestOf(*dtype));
  }
}

struct Codes {
  float min;
  float max;
};

Codes CodesOf(const ObservedIntegers& spec) {
  const float half = std::ldexp(1.0f, spec.bits - 1);
  return spec.is_signed ? Codes{-half, half - 1} : Codes{0, 2 * half - 1};
}

template <class A>
void ChooseScales(const TensorView& weight, const ObservedIntegers& spec, const BlockLayout& layout,
                  QuantizedTensor* out) {
  const Codes codes = CodesOf(spec);
  // torch promotes the one scale of a matrix and the float32 epsilon to float32.
  const bool whole = spec.block.rows == 0;
  if (whole) out->scale_dtype = DType::kF32;
  for (const Range& range : BlockRanges(weight, layout)) {
    if (spec.symmetric) {
      const float scale = A::Round(range.absmax() / ((codes.max - codes.min) / 2));
      out->scale.push_back(std::clamp(scale, kEpsilon, A::kMax));
      continue;
    }
    const float spread = std::min(A::Round(range.max - range.min), A::kMax);
    const float scale = std::max(A::Round(spread / (codes.max - codes.min)), kEpsilon);
    const float quotient = range.min / scale;
    const float steps = std::clamp(whole ? quotient : A::Round(quotient), -0x1p20f, 0x1p20f);
    out->scale.push_back(scale);
    out->zero_point.push_back(std::clamp(codes.min - RoundHalfEven(steps), codes.min, codes.max));
  }
}

template <class A>
void EncodeIntegers(const TensorView& weight, const ObservedIntegers& spec,
                    const BlockLayout& layout, QuantizedTensor* out) {
  const Codes codes = CodesOf(spec);
  ForEachRun(weight, layout, [&](const Run& run) {
    const float scale = out->scale[run.block];
    const float inverse = 1.0f / scale;
    const float zero = out->zero_point.empty() ? 0.0f : out->zero_point[run.block];
    const auto code_of = [&](float value) {
      const float steps = std::clamp(value * inverse, -0x1p20f, 0x1p20f);
      return std::clamp(RoundHalfEven(steps) + zero, codes.min, codes.max);
    };
    for (int64_t i = 0; i < run.count; ++i) {
      const float frozen = A::Round((code_of(run.values[i]) - zero) * scale);
      out->codes[run.first + i] =
          static_cast<uint8_t>(static_cast<int32_t>(code_of(frozen) - codes.min));
    }
  });
}

struct MicroscalingFormat {
  int mantissa_bits;
  int largest_exponent;
  int smallest_exponent;  // of normal values
  float largest;
};

MicroscalingFormat FormatOf(MicroscalingValues values) {
  switch (values) {
    case MicroscalingValues::kE2M3:
      return {3, 2, 0, kE2M3Max};
    case MicroscalingValues::kE3M2:
      return {2, 4, -2, kE3M2Max};
    case MicroscalingValues::kE2M1:
      break;
  }
  return {1, 2, 0, kE2M1Max};
}

Grid GridOf(MicroscalingValues values) {
  return values == MicroscalingValues::kE2M1   ? E2M1Grid()
         : values == MicroscalingValues::kE2M3 ? E2M3Grid()
                                               : E3M2Grid();
}

// The exponent of a block's scale, from -126 to 127.
int ExponentOf(float absmax, const MicroscalingFormat& format, SharedExponent rule) {
  if (rule != SharedExponent::kEven) {
    // A scale of zero becomes float32's epsilon.
    if (absmax == 0) return -23;
    // torch takes the logarithm in float32.
    const float logarithm = static_cast<float>(std::log2(static_cast<double>(absmax)));
    const float whole =
        rule == SharedExponent::kFloor ? std::floor(logarithm) : std::ceil(logarithm);
    return std::clamp(static_cast<int>(whole) - format.largest_exponent, -126, 127);
  }
  if (absmax == 0) return -126;
  const uint32_t bits = std::bit_cast<uint32_t>(absmax) + (1u << (23 - format.mantissa_bits - 1));
  // Subnormals end below the smallest exponent either way.
  const int exponent = static_cast<int>(bits >> 23) - 127;
  return std::clamp(exponent - format.largest_exponent, -126, 127);
}

// Code of |value| on the values' grid, ties to even, saturating.
uint8_t MagnitudeOf(float value, const MicroscalingFormat& format) {
  const float magnitude = std::min(std::abs(value), format.largest);
  const int smallest = format.smallest_exponent;
  const int exponent = magnitude >= std::ldexp(1.0f, smallest) ? std::ilogb(magnitude) : smallest;
  const float steps = RoundHalfEven(std::ldexp(magnitude, format.mantissa_bits - exponent));
  // Codes count steps from zero on; a carry into the next power of two is the next code.
  return static_cast<uint8_t>(static_cast<int>(steps) +
                              ((exponent - smallest) << format.mantissa_bits));
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeObservedIntegers(const TensorView& weight,
                                                         const ObservedIntegers& spec) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeTensorOf(weight, spec.block, UniformGrid(spec.bits, spec.is_signed));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  const BlockLayout layout{out.rows, out.cols, out.block};
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    ChooseScales<A>(weight, spec, layout, &out);
    StoreScales(spec.scale_dtype, &out);
    EncodeIntegers<A>(weight, spec, layout, &out);
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeObservedFloat8(const TensorView& weight,
                                                       const BlockShape& block, DType float_dtype,
                                                       std::optional<DType> scale_dtype) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const bool e4m3 = float_dtype == DType::kF8E4M3;
  const float largest = e4m3 ? kE4M3Max : kE5M2Max;
  QuantizedTensor out = MakeTensorOf(weight, block, e4m3 ? E4M3Grid() : E5M2Grid());
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.scale_dtype = scale_dtype.value_or(weight.dtype);
  const BlockLayout layout{out.rows, out.cols, out.block};
  for (const Range& range : BlockRanges(weight, layout)) {
    const float scale = RoundTo(out.scale_dtype, range.absmax() / largest);
    out.scale.push_back(scale == 0 ? kEpsilon : std::min(scale, LargestOf(out.scale_dtype)));
  }
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    ForEachRun(weight, layout, [&](const Run& run) {
      const float scale = out.scale[run.block];
      uint8_t* code = out.codes.data() + run.first;
      for (int64_t i = 0; i < run.count; ++i) {
        const float value = std::clamp(A::Round(run.values[i] / scale), -largest, largest);
        code[i] = e4m3 ? E4M3FromClamped(value) : E5M2FromFloat(value);
      }
    });
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeMicroscaling(const TensorView& weight, int64_t group_size,
                                                     MicroscalingValues values,
                                                     SharedExponent exponent) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const MicroscalingFormat format = FormatOf(values);
  QuantizedTensor out = MakeTensorOf(weight, {.rows = 1, .cols = group_size}, GridOf(values));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.scale_dtype = DType::kF8E8M0;
  const BlockLayout layout{out.rows, out.cols, out.block};
  for (const Range& range : BlockRanges(weight, layout)) {
    out.scale.push_back(std::ldexp(1.0f, ExponentOf(range.absmax(), format, exponent)));
  }
  const uint8_t sign = static_cast<uint8_t>(1 << (out.grid.bits - 1));
  ForEachRun(weight, layout, [&](const Run& run) {
    const float scale = out.scale[run.block];
    uint8_t* code = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      const uint8_t magnitude = MagnitudeOf(run.values[i] / scale, format);
      code[i] = magnitude != 0 && run.values[i] < 0 ? magnitude | sign : magnitude;
    }
  });
  return out;
}

}  // namespace quantd

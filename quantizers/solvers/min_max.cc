#include "quantizers/solvers/min_max.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

using Values = MinMaxSpec::Values;
using Scales = MinMaxSpec::Scales;

struct Limits {
  float low;
  float high;
};

Limits LimitsOf(const MinMaxSpec& spec) {
  switch (spec.values) {
    case Values::kE2M1:
      return {-kE2M1Max, kE2M1Max};
    case Values::kE2M3:
      return {-kE2M3Max, kE2M3Max};
    case Values::kE4M3:
      return {-kE4M3Max, kE4M3Max};
    case Values::kInteger:
      break;
  }
  const float half = static_cast<float>(1 << (spec.bits - 1));
  return {-half, half - 1};
}

Grid GridOf(const MinMaxSpec& spec) {
  switch (spec.values) {
    case Values::kE2M1:
      return E2M1Grid();
    case Values::kE2M3:
      return E2M3Grid();
    case Values::kE4M3:
      return E4M3Grid();
    case Values::kInteger:
      break;
  }
  return UniformGrid(spec.bits, /*is_signed=*/true);
}

// A scale of zero becomes the dtype's epsilon; one past its range, which only weights near the
// dtype's own limits give, the largest number instead of infinity.
template <class A>
float UsableScale(float scale) {
  constexpr float kEpsilon = 1.0f / static_cast<float>(1 << A::kMantissaBits);
  return scale == 0 ? kEpsilon : std::min(scale, A::kMax);
}

template <class A>
void SymmetricScales(const std::vector<Range>& ranges, Limits limits, QuantizedTensor* out) {
  const float half_range = (limits.high - limits.low) / 2;
  for (const Range& range : ranges) {
    out->scale.push_back(UsableScale<A>(A::Round(range.absmax() / half_range)));
  }
}

template <class A>
void AsymmetricScales(const std::vector<Range>& ranges, Limits limits, QuantizedTensor* out) {
  for (const Range& range : ranges) {
    const float spread = std::min(A::Round(range.max - range.min), A::kMax);
    const float scale = A::Round(spread / (limits.high - limits.low));
    // The zero point is found with the scale before zero is replaced: 0/0 counts as 0.
    const float zero = A::Round(limits.low - A::Round(range.min / scale));
    const float clamped = std::clamp(zero, limits.low, limits.high);
    out->zero_point.push_back(std::isnan(zero) ? 0 : RoundHalfEven(clamped));
    out->scale.push_back(UsableScale<A>(scale));
  }
}

// The exponent byte of a block: the largest magnitude rounded to a power of two with a quarter (or,
// for three mantissa bits, a sixteenth) of a step added first, over the largest power of the
// values.
template <class A>
uint8_t SharedExponent(float absmax, const MinMaxSpec& spec) {
  const int mantissa = spec.values == Values::kE2M3 ? 3 : 1;
  const int largest_power = spec.values == Values::kE4M3 ? 8 : 2;
  // The dtype's bits, seen through float32: float16 subnormals have a smaller step, but upstream
  // adds to the raw bits, where they have exponent 0 and so end as 0.
  constexpr int kMinExponent = A::kDType == DType::kF16 ? -14 : -126;
  const float step = std::ldexp(1.0f, -mantissa - 1);
  int exponent;
  const float fraction = std::frexp(absmax, &exponent);  // [0.5, 1)
  --exponent;
  const bool subnormal = absmax == 0 || exponent < kMinExponent;
  if (subnormal) {
    const float reach = absmax / std::ldexp(1.0f, kMinExponent) + step;
    if (reach < 1) return 0;
    exponent = kMinExponent;
  } else if (2 * fraction + step >= 2) {
    ++exponent;
  }
  return static_cast<uint8_t>(std::clamp(127 + exponent - largest_power, 0, 254));
}

template <class A>
void PowerOfTwoScales(const std::vector<Range>& ranges, const MinMaxSpec& spec,
                      QuantizedTensor* out) {
  out->scale_dtype = DType::kF8E8M0;
  for (const Range& range : ranges) {
    const float scale = A::Round(FloatFromE8M0(SharedExponent<A>(range.absmax(), spec)));
    out->scale.push_back(scale == 0 ? 1.0f : scale);
  }
}

// A matrix so small that the scale has no place in the dtype, zeros above all, has 1.
template <class A>
float GlobalScale(float absmax) {
  absmax = std::max(absmax, A::kTiny);
  const float whole = A::Round(A::Round(1.0f / absmax) * (kE4M3Max * kE2M1Max));
  return whole > A::kMax ? 1.0f : whole;
}

// Fills nested scales; `scale` becomes what they stand for.
template <class A>
void TwoLevelScales(const std::vector<Range>& ranges, QuantizedTensor* out) {
  float absmax = 0;
  for (const Range& range : ranges) absmax = std::max(absmax, range.absmax());
  const float whole = GlobalScale<A>(absmax);
  out->scale_dtype = DType::kF8E4M3;
  NestedScales nested;
  nested.super_size = static_cast<int64_t>(ranges.size());
  nested.super_scale = {whole};
  for (const Range& range : ranges) {
    const float local = A::Round(range.absmax() / kE2M1Max) * whole;
    uint8_t code = E4M3FromClamped(std::clamp(local, -kE4M3Max, kE4M3Max));
    if (code == 0) code = E4M3FromClamped(0.125f);
    nested.scale_codes.push_back(code);
    out->scale.push_back(FloatFromE4M3(code) / whole);
  }
  out->nested = std::move(nested);
}

template <class A>
void ChooseScales(const TensorView& weight, const MinMaxSpec& spec, const BlockLayout& layout,
                  QuantizedTensor* out) {
  const std::vector<Range> ranges = BlockRanges(weight, layout);
  out->scale.reserve(ranges.size());
  switch (spec.scales) {
    case Scales::kPowerOfTwo:
      return PowerOfTwoScales<A>(ranges, spec, out);
    case Scales::kTwoLevel:
      return TwoLevelScales<A>(ranges, out);
    case Scales::kWeightDType:
      break;
  }
  out->scale_dtype = weight.dtype;
  if (spec.symmetric) return SymmetricScales<A>(ranges, LimitsOf(spec), out);
  AsymmetricScales<A>(ranges, LimitsOf(spec), out);
}

// Codes of every run: `encode` takes value / scale + zero point, clamped to the limits.
template <class A, class Encode>
void EncodeAll(const TensorView& weight, const BlockLayout& layout, Limits limits,
               const Encode& encode, QuantizedTensor* out) {
  const bool has_zero = !out->zero_point.empty();
  ForEachRun(weight, layout, [&](const Run& run) {
    const float scale = out->scale[run.block];
    const float zero = has_zero ? out->zero_point[run.block] : 0.0f;
    uint8_t* codes = out->codes.data() + run.first;
    if (has_zero) {
      for (int64_t i = 0; i < run.count; ++i) {
        const float value = A::Round(A::Round(run.values[i] / scale) + zero);
        codes[i] = encode(std::clamp(value, limits.low, limits.high));
      }
    } else {
      for (int64_t i = 0; i < run.count; ++i) {
        codes[i] = encode(std::clamp(A::Round(run.values[i] / scale), limits.low, limits.high));
      }
    }
  });
}

template <class A>
void EncodeValues(const TensorView& weight, const MinMaxSpec& spec, const BlockLayout& layout,
                  QuantizedTensor* out) {
  const Limits limits = LimitsOf(spec);
  switch (spec.values) {
    case Values::kE2M1:
      return EncodeAll<A>(weight, layout, limits, E2M1FromClamped, out);
    case Values::kE2M3:
      return EncodeAll<A>(weight, layout, limits, E2M3FromClamped, out);
    case Values::kE4M3:
      return EncodeAll<A>(weight, layout, limits, E4M3FromClamped, out);
    case Values::kInteger:
      break;
  }
  const auto encode = [low = limits.low](float value) {
    return static_cast<uint8_t>(static_cast<int32_t>(RoundHalfEven(value) - low));
  };
  EncodeAll<A>(weight, layout, limits, encode, out);
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeMinMax(const TensorView& weight, const MinMaxSpec& spec) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.block = spec.block;
  out.grid = GridOf(spec);
  out.dequantized_dtype = spec.scales == Scales::kWeightDType ? weight.dtype : DType::kBF16;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  const BlockLayout layout{out.rows, out.cols, out.block};
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    ChooseScales<A>(weight, spec, layout, &out);
    // NVFP4 divides in float32 by the float32 product of its two scales.
    if (spec.scales == Scales::kTwoLevel)
      return EncodeValues<InFloat32>(weight, spec, layout, &out);
    EncodeValues<A>(weight, spec, layout, &out);
  });
  return out;
}

}  // namespace quantd

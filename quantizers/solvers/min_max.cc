#include "quantizers/solvers/min_max.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/run_loops.h"

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

// What a block's codes are made with; `zero` only where there are zero points.
struct BlockScale {
  float scale;
  float zero = 0;
};

template <class A>
BlockScale SymmetricScale(const Range& range, Limits limits) {
  const float half_range = (limits.high - limits.low) / 2;
  return {UsableScale<A>(A::Round(range.absmax() / half_range))};
}

template <class A>
BlockScale AsymmetricScale(const Range& range, Limits limits) {
  const float spread = std::min(A::Round(range.max - range.min), A::kMax);
  const float scale = A::Round(spread / (limits.high - limits.low));
  // The zero point is found with the scale before zero is replaced: 0/0 counts as 0.
  const float zero = A::Round(limits.low - A::Round(range.min / scale));
  const float clamped = std::clamp(zero, limits.low, limits.high);
  return {UsableScale<A>(scale), std::isnan(zero) ? 0 : RoundHalfEven(clamped)};
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
BlockScale PowerOfTwoScale(const Range& range, const MinMaxSpec& spec) {
  const float scale = A::Round(FloatFromE8M0(SharedExponent<A>(range.absmax(), spec)));
  return {scale == 0 ? 1.0f : scale};
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
  NestedScales nested;
  nested.super_size = static_cast<int64_t>(ranges.size());
  nested.super_scale = {whole};
  for (size_t b = 0; b < ranges.size(); ++b) {
    const Range& range = ranges[b];
    const float local = A::Round(range.absmax() / kE2M1Max) * whole;
    uint8_t code = E4M3FromClamped(std::clamp(local, -kE4M3Max, kE4M3Max));
    if (code == 0) code = E4M3FromClamped(0.125f);
    nested.scale_codes.push_back(code);
    out->scale[b] = FloatFromE4M3(code) / whole;
  }
  out->nested = std::move(nested);
}

template <class A>
BlockScale ScaleOf(const Range& range, const MinMaxSpec& spec, Limits limits) {
  if (spec.scales == Scales::kPowerOfTwo) return PowerOfTwoScale<A>(range, spec);
  return spec.symmetric ? SymmetricScale<A>(range, limits) : AsymmetricScale<A>(range, limits);
}

DTypeRunLoops::Encode EncodingOf(const MinMaxSpec& spec, const DTypeRunLoops& loops) {
  switch (spec.values) {
    case Values::kE2M1:
      return loops.divided_e2m1;
    case Values::kE2M3:
      return loops.divided_e2m3;
    case Values::kE4M3:
      return loops.divided_e4m3;
    case Values::kInteger:
      break;
  }
  return spec.symmetric ? loops.divided : loops.divided_with_zero;
}

// Scales and codes, in one walk where a run is all of its block.
template <class A>
void Encode(const TensorView& weight, const MinMaxSpec& spec, const BlockLayout& layout,
            QuantizedTensor* out) {
  const Limits limits = LimitsOf(spec);
  const RunLoops& loops = BestRunLoops();
  // NVFP4 divides in float32 by the float32 product of its two scales.
  const bool two_level = spec.scales == Scales::kTwoLevel;
  const auto encode = EncodingOf(spec, loops.In(two_level ? DType::kF32 : weight.dtype));
  const bool has_zero = !out->zero_point.empty();
  const bool one_walk = layout.one_run_per_block() && !two_level;
  const auto choose = [&](const Range& range, int64_t block) {
    const BlockScale chosen = ScaleOf<A>(range, spec, limits);
    out->scale[block] = chosen.scale;
    if (has_zero) out->zero_point[block] = chosen.zero;
  };
  if (!one_walk) {
    const std::vector<Range> ranges = BlockRanges(weight, layout);
    if (two_level) TwoLevelScales<A>(ranges, out);
    for (size_t b = 0; !two_level && b < ranges.size(); ++b) {
      choose(ranges[b], static_cast<int64_t>(b));
    }
  }
  ForEachRun(weight, layout, [&](const Run& run) {
    if (one_walk) choose(loops.range(run.values, run.count), run.block);
    const float zero = has_zero ? out->zero_point[run.block] : 0.0f;
    encode(run.values, run.count, out->scale[run.block],
           {zero, limits.low, limits.high, static_cast<int>(limits.low)},
           out->codes.data() + run.first);
  });
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
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  switch (spec.scales) {
    case Scales::kPowerOfTwo:
      out.scale_dtype = DType::kF8E8M0;
      break;
    case Scales::kTwoLevel:
      out.scale_dtype = DType::kF8E4M3;
      break;
    case Scales::kWeightDType:
      out.scale_dtype = weight.dtype;
      if (!spec.symmetric) out.zero_point.resize(out.scale.size());
  }
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    Encode<decltype(arithmetic)>(weight, spec, layout, &out);
  });
  return out;
}

}  // namespace quantd

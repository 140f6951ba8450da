#include "quantizers/solvers/affine.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/run_loops.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

struct Codes {
  float min;
  float max;
};

Codes CodesOf(const AffineSpec& spec) {
  const float half = static_cast<float>(1 << (spec.bits - 1));
  // torch divides the limits by two, rounding down.
  return spec.half_range ? Codes{-half / 2, half / 2 - 1} : Codes{-half, half - 1};
}

template <class A>
constexpr float SmallestNormal() {
  return A::kDType == DType::kF16 ? 0x1p-14f : 0x1p-126f;
}

template <class A>
float ScaleOf(const Range& range, const AffineSpec& spec, Codes codes) {
  switch (spec.mapping) {
    case AffineMapping::kSymmetric:
      return A::Round(range.absmax() / ((codes.max - codes.min) / 2));
    case AffineMapping::kSymmetricNoClipping:
      return std::max(A::Round(range.min / codes.min), A::Round(range.max / codes.max));
    case AffineMapping::kAsymmetric:
      break;
  }
  return A::Round(std::min(A::Round(range.max - range.min), A::kMax) / (codes.max - codes.min));
}

float StoredScale(DType dtype, float scale) {
  const float least = dtype == DType::kF16 ? 0x1p-14f : 0x1p-126f;
  const float largest = dtype == DType::kF16    ? InFloat16::kMax
                        : dtype == DType::kBF16 ? InBFloat16::kMax
                                                : InFloat32::kMax;
  scale = std::min(RoundTo(dtype, scale), largest);
  return scale == 0 ? least : scale;
}

// The scale and the zero point of a block, computed in the weight's dtype.
template <class A>
std::pair<float, float> ScaleAndZero(const Range& range, const AffineSpec& spec, Codes codes) {
  const float least = spec.min_scale > 0 ? A::Round(spec.min_scale) : SmallestNormal<A>();
  const float scale = std::clamp(ScaleOf<A>(range, spec, codes), least, A::kMax);
  if (spec.mapping != AffineMapping::kAsymmetric) return {scale, 0.0f};
  const float zero = A::Round(codes.min - RoundHalfEven(A::Round(range.min / scale)));
  return {scale, std::clamp(zero, codes.min, codes.max)};
}

// The dtype of an operation between operands of both dtypes, as torch promotes them.
DType Promoted(DType a, DType b) { return a == b ? a : DType::kF32; }

// Chooses scales of blocks and encodes them: q = clamp(round(w * (1 / s)) + z), the reciprocal in
// the scale's dtype, the rest in the promoted one. `choose(range, block)` fills the scales.
template <class Choose>
void EncodeBlocks(const TensorView& weight, const AffineSpec& spec, const BlockLayout& layout,
                  const Choose& choose, QuantizedTensor* out) {
  const Codes codes = CodesOf(spec);
  const RunLoops& loops = BestRunLoops();
  const auto encode = loops.In(Promoted(weight.dtype, out->scale_dtype)).multiplied;
  const bool has_zero = !out->zero_point.empty();
  const bool one_walk = layout.one_run_per_block();
  if (!one_walk) {
    const std::vector<Range> ranges = BlockRanges(weight, layout);
    for (size_t b = 0; b < ranges.size(); ++b) choose(ranges[b], static_cast<int64_t>(b));
  }
  ForEachRun(weight, layout, [&](const Run& run) {
    if (one_walk) choose(loops.range(run.values, run.count), run.block);
    const float inverse = RoundTo(out->scale_dtype, 1.0f / out->scale[run.block]);
    const float zero = has_zero ? out->zero_point[run.block] : 0.0f;
    encode(run.values, run.count, inverse, {zero, codes.min, codes.max, out->grid.first},
           out->codes.data() + run.first);
  });
}

// One row's groups of the half-quadratic search: rounding with the present scale, then the scale of
// least squares. Sums are torch's.
class HqqScales {
 public:
  HqqScales(const TensorView& weight, const AffineSpec& spec, const BlockLayout& layout)
      : weight_(weight), layout_(layout), codes_(CodesOf(spec)) {
    const float largest = std::max(-codes_.min, codes_.max);
    for (const Range& range : BlockRanges(weight, layout)) {
      scales_.push_back(std::max(range.absmax() / largest, kEpsilon));
    }
  }

  absl::StatusOr<std::vector<float>> Solve(const StopRequest& stopped) {
    constexpr int kIterations = 20;
    constexpr float kTolerance = 1e-5f;
    for (int i = 0; i < kIterations; ++i) {
      RETURN_IF_ERROR(CheckStopped(stopped));
      const std::vector<float> previous = scales_;
      Step();
      float change = 0;
      for (size_t b = 0; b < scales_.size(); ++b) {
        change = std::max(change, std::abs(scales_[b] - previous[b]) / previous[b]);
      }
      if (change < kTolerance) break;
    }
    return scales_;
  }

 private:
  static constexpr float kEpsilon = 0x1p-23f;

  void Step() {
    ForEachRun(weight_, layout_, [this](const Run& run) {
      thread_local std::vector<float> products, squares;
      products.resize(static_cast<size_t>(run.count));
      squares.resize(static_cast<size_t>(run.count));
      float& scale = scales_[run.block];
      for (int64_t i = 0; i < run.count; ++i) {
        const float value = std::clamp(run.values[i] / scale, -0x1p20f, 0x1p20f);
        const float code = std::clamp(RoundHalfEven(value), codes_.min, codes_.max);
        products[i] = run.values[i] * code;
        squares[i] = code * code;
      }
      const float square = TorchSum(squares);
      if (square > 0) scale = std::min(TorchSum(products) / square, InFloat32::kMax);
      scale = std::max(scale, kEpsilon);
    });
  }

  const TensorView& weight_;
  const BlockLayout& layout_;
  Codes codes_;
  std::vector<float> scales_;
};

// Codes of the float32 scales by division; the scales are rounded only when they are stored.
void EncodeHqqCodes(const TensorView& weight, const AffineSpec& spec, const BlockLayout& layout,
                    QuantizedTensor* out) {
  const Codes codes = CodesOf(spec);
  ForEachRun(weight, layout, [&](const Run& run) {
    const float scale = out->scale[run.block];
    uint8_t* code = out->codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      const float value = std::clamp(run.values[i] / scale, -0x1p20f, 0x1p20f);
      code[i] = static_cast<uint8_t>(
          static_cast<int32_t>(std::clamp(RoundHalfEven(value), codes.min, codes.max)) -
          out->grid.first);
    }
  });
}

QuantizedTensor MakeTensorOf(const TensorView& weight, const BlockShape& block, Grid grid) {
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.block = block;
  out.grid = std::move(grid);
  out.dequantized_dtype = weight.dtype;
  out.scale_dtype = weight.dtype;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  return out;
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeAffine(const TensorView& weight, const AffineSpec& spec,
                                               const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out =
      MakeTensorOf(weight, spec.block, UniformGrid(spec.bits, /*is_signed=*/true));
  const BlockLayout layout{out.rows, out.cols, out.block};
  const bool rescaled = spec.scale_dtype && *spec.scale_dtype != weight.dtype;
  if (rescaled) out.scale_dtype = *spec.scale_dtype;
  if (spec.hqq_scales) {
    ASSIGN_OR_RETURN(out.scale, HqqScales(weight, spec, layout).Solve(stopped));
    if (!rescaled) EncodeHqqCodes(weight, spec, layout, &out);
    for (float& scale : out.scale) {
      scale = StoredScale(out.scale_dtype, StoredScale(weight.dtype, scale));
    }
    const auto keep = [](const Range&, int64_t) {};
    if (rescaled) EncodeBlocks(weight, spec, layout, keep, &out);
    return out;
  }
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  if (spec.mapping == AffineMapping::kAsymmetric) out.zero_point.resize(out.scale.size());
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    const auto choose = [&](const Range& range, int64_t block) {
      const auto [scale, zero] = ScaleAndZero<decltype(arithmetic)>(range, spec, CodesOf(spec));
      out.scale[block] = rescaled ? StoredScale(out.scale_dtype, scale) : scale;
      if (!out.zero_point.empty()) out.zero_point[block] = zero;
    };
    EncodeBlocks(weight, spec, layout, choose, &out);
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeInt4Groups(const TensorView& weight, int64_t group_size) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out =
      MakeTensorOf(weight, {.rows = 1, .cols = group_size}, UniformGrid(4, /*is_signed=*/true));
  out.dequantized_dtype = DType::kF32;
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  out.offset.resize(out.scale.size());
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, layout, [&](const Run& run) {
    const Range range = loops.least_and_greatest(run.values, run.count);
    const float spread = std::min(range.max - range.min, InFloat32::kMax);
    const float scale = std::max(spread, 1e-6f) / 15.0f;
    loops.In(DType::kF32)
        .above_zero(run.values, run.count, scale, {range.min, 0, 15, 0},
                    out.codes.data() + run.first);
    out.scale[run.block] = RoundTo(weight.dtype, scale);
    out.offset[run.block] = RoundTo(weight.dtype, range.min + scale * 8.0f);
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeFloat8(const TensorView& weight, const BlockShape& block,
                                               DType float_dtype) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const bool e4m3 = float_dtype == DType::kF8E4M3;
  const float largest = e4m3 ? kE4M3Max : kE5M2Max;
  QuantizedTensor out = MakeTensorOf(weight, block, e4m3 ? E4M3Grid() : E5M2Grid());
  out.scale_dtype = DType::kF32;
  const BlockLayout layout{out.rows, out.cols, out.block};
  for (const Range& range : BlockRanges(weight, layout)) {
    out.scale.push_back(RoundTo(weight.dtype, range.absmax() / largest));
  }
  const auto encode = BestRunLoops().In(DType::kF32).divided_e4m3_or_0;
  ForEachRun(weight, layout, [&](const Run& run) {
    // A scale that underflowed to zero gives the largest code, as upstream's infinity does.
    const float scale = out.scale[run.block];
    uint8_t* code = out.codes.data() + run.first;
    if (e4m3) return encode(run.values, run.count, scale, {}, code);
    for (int64_t i = 0; i < run.count; ++i) {
      const float value = run.values[i] == 0 && scale == 0
                              ? 0.0f
                              : std::clamp(run.values[i] / scale, -largest, largest);
      code[i] = E5M2FromFloat(value);
    }
  });
  return out;
}

}  // namespace quantd

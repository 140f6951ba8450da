#include "quantizers/solvers/quanto.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/run_loops.h"

namespace quantd {
namespace {

QuantizedTensor MakeMatrix(const TensorView& weight) {
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.scale_dtype = weight.dtype;
  out.dequantized_dtype = weight.dtype;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  return out;
}

// Of a small float that has no loop of its own. `nan` is the code of 0/0, what upstream makes of a
// row of zeros; its sign is that of x86 processors.
template <class A, class Encode>
void EncodeFloats(const Run& run, float scale, float max, const Encode& encode, uint8_t* codes) {
  for (int64_t i = 0; i < run.count; ++i) {
    const float ratio = run.values[i] / scale;
    codes[i] = std::isnan(ratio) ? 0 : encode(std::clamp(A::Round(ratio), -max, max));
  }
}

template <class A>
void EncodeRows(const TensorView& weight, DType dtype, float max, QuantizedTensor* out) {
  out->grid = dtype == DType::kF8E4M3       ? E4M3Grid()
              : dtype == DType::kF8E4M3FNUZ ? E4M3FNUZGrid()
              : dtype == DType::kF8E5M2     ? E5M2Grid()
                                            : UniformGrid(8, /*is_signed=*/true);
  out->scale.resize(static_cast<size_t>(out->rows));
  const RunLoops& loops = BestRunLoops();
  const DTypeRunLoops& rounding = loops.In(A::kDType);
  ForEachRun(weight, {out->rows, out->cols, out->block}, [&](const Run& run) {
    const float scale = A::Round(loops.range(run.values, run.count).absmax() / max);
    out->scale[run.block] = scale;
    uint8_t* codes = out->codes.data() + run.first;
    switch (dtype) {
      case DType::kF8E4M3:
        // Its loop clamps at the format's own limit, which is quanto's.
        return rounding.divided_e4m3_or_0(run.values, run.count, scale, {}, codes);
      case DType::kF8E4M3FNUZ:
        return EncodeFloats<A>(run, scale, max, E4M3FNUZFromFloat, codes);
      case DType::kF8E5M2:
        return EncodeFloats<A>(run, scale, max, E5M2FromFloat, codes);
      default:
        // 0/0 in a row of zeros becomes 0 when it is cast to int8.
        return rounding.divided_or_0(run.values, run.count, scale, {0, -128, 127, -128}, codes);
    }
  });
}

// Codes, scale and offset (minus quanto's shift) of every group.
template <class A>
void EncodeGroups(const TensorView& weight, int bits, QuantizedTensor* out) {
  const float steps = static_cast<float>((1 << bits) - 1);
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, {out->rows, out->cols, out->block}, [&](const Run& run) {
    const Range range = loops.least_and_greatest(run.values, run.count);
    // Only weights near the dtype's own limits exceed it here.
    const float spread = std::min(A::Round(range.max - range.min), A::kMax);
    const float scale = A::Round(spread / steps);
    out->scale[run.block] = scale;
    out->offset[run.block] = range.min;
    loops.In(A::kDType).above_zero(run.values, run.count, scale, {range.min, 0, steps, 0},
                                   out->codes.data() + run.first);
  });
}

// What TinyGemm keeps instead of the shift is the middle of the range; saving turns it back.
template <class A>
void RoundThroughMidpoint(int bits, QuantizedTensor* out) {
  for (size_t i = 0; i < out->scale.size(); ++i) {
    const float half = static_cast<float>(1 << (bits - 1)) * out->scale[i];
    const float midpoint = A::Round(out->offset[i] + half);
    out->offset[i] = -A::Round(half - midpoint);
  }
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeQuantoRows(const TensorView& weight, DType codes,
                                                   float max) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeMatrix(weight);
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    EncodeRows<decltype(arithmetic)>(weight, codes, max, &out);
  });
  return out;
}

int64_t QuantoGroupSize(int64_t cols) {
  if (cols <= 128) return 0;
  for (const int64_t size : {128, 96, 64, 32}) {
    if (cols % size == 0) return size;
  }
  return 0;
}

absl::StatusOr<QuantizedTensor> QuantizeQuantoGroups(const TensorView& weight, int bits) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out = MakeMatrix(weight);
  out.grid = UniformGrid(bits, /*is_signed=*/false);
  out.block.cols = QuantoGroupSize(out.cols);
  out.rounds_each_step = true;
  out.scale.resize(static_cast<size_t>(out.block_count()));
  out.offset.resize(out.scale.size());
  WithArithmetic(weight.dtype, [&](auto arithmetic) {
    using A = decltype(arithmetic);
    EncodeGroups<A>(weight, bits, &out);
    const bool tiny_gemm = bits == 4 && weight.dtype == DType::kBF16 && out.block.cols == 128;
    if (tiny_gemm) RoundThroughMidpoint<A>(bits, &out);
  });
  return out;
}

}  // namespace quantd

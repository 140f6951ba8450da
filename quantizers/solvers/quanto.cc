#include "quantizers/solvers/quanto.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"

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

// Calls body(run, scale of its row, codes of its first element) for all rows.
template <class Body>
void ForEachRow(const TensorView& weight, QuantizedTensor* out, const Body& body) {
  ForEachRun(weight, {out->rows, out->cols, out->block}, [&](const Run& run) {
    body(run, out->scale[run.block], out->codes.data() + run.first);
  });
}

// `nan` is the code of 0/0, what upstream makes of a row of zeros; its sign is that of x86
// processors.
template <class A, class Encode>
void EncodeFloats(const TensorView& weight, float max, const Encode& encode, QuantizedTensor* out) {
  ForEachRow(weight, out, [&](const Run& run, float scale, uint8_t* codes) {
    for (int64_t i = 0; i < run.count; ++i) {
      const float ratio = run.values[i] / scale;
      codes[i] = std::isnan(ratio) ? 0 : encode(std::clamp(A::Round(ratio), -max, max));
    }
  });
}

template <class A>
void EncodeInt8(const TensorView& weight, QuantizedTensor* out) {
  ForEachRow(weight, out, [&](const Run& run, float scale, uint8_t* codes) {
    for (int64_t i = 0; i < run.count; ++i) {
      const float ratio = run.values[i] / scale;
      // 0/0 in a row of zeros becomes 0 when it is cast to int8.
      const float value = std::isnan(ratio) ? 0 : std::clamp(A::Round(ratio), -128.0f, 127.0f);
      codes[i] = static_cast<uint8_t>(static_cast<int>(RoundHalfEven(value)) + 128);
    }
  });
}

template <class A>
void EncodeRows(const TensorView& weight, DType codes, float max, QuantizedTensor* out) {
  for (const Range& range : BlockRanges(weight, {out->rows, out->cols, out->block})) {
    out->scale.push_back(A::Round(range.absmax() / max));
  }
  switch (codes) {
    case DType::kF8E4M3:
      out->grid = E4M3Grid();
      return EncodeFloats<A>(weight, max, E4M3FromClamped, out);
    case DType::kF8E4M3FNUZ:
      out->grid = E4M3FNUZGrid();
      return EncodeFloats<A>(weight, max, E4M3FNUZFromFloat, out);
    case DType::kF8E5M2:
      out->grid = E5M2Grid();
      return EncodeFloats<A>(weight, max, E5M2FromFloat, out);
    default:
      out->grid = UniformGrid(8, /*is_signed=*/true);
      return EncodeInt8<A>(weight, out);
  }
}

// Scale and offset (minus quanto's shift) of every group.
template <class A>
void ChooseScales(const TensorView& weight, int bits, QuantizedTensor* out) {
  const float steps = static_cast<float>((1 << bits) - 1);
  ForEachRun(weight, {out->rows, out->cols, out->block}, [&](const Run& run) {
    const auto [low, high] = std::minmax_element(run.values, run.values + run.count);
    // Only weights near the dtype's own limits exceed it here.
    const float spread = std::min(A::Round(*high - *low), A::kMax);
    out->scale[run.block] = A::Round(spread / steps);
    out->offset[run.block] = *low;
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
    ChooseScales<A>(weight, bits, &out);
    const float most = static_cast<float>((1 << bits) - 1);
    ForEachRow(weight, &out, [&](const Run& run, float scale, uint8_t* codes) {
      const float low = out.offset[run.block];
      for (int64_t i = 0; i < run.count; ++i) {
        const float above = A::Round(run.values[i] - low) / scale;
        const float value = std::isnan(above) ? 0 : std::clamp(A::Round(above), 0.0f, most);
        codes[i] = static_cast<uint8_t>(RoundHalfEven(value));
      }
    });
    const bool tiny_gemm = bits == 4 && weight.dtype == DType::kBF16 && out.block.cols == 128;
    if (tiny_gemm) RoundThroughMidpoint<A>(bits, &out);
  });
  return out;
}

}  // namespace quantd

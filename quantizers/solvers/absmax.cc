#include "quantizers/solvers/absmax.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/run_loops.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

constexpr int64_t kNestedBlock = 256;

// Codes of one block. Upstream multiplies by the reciprocal, but divides in a short last block.
void EncodeFourBit(const FourBitTable& table, const Run& run, float absmax, bool is_short,
                   uint8_t* codes) {
  const float divisor = std::max(absmax, 1e-38f);
  for (int64_t i = 0; is_short && i < run.count; ++i) run.values[i] /= divisor;
  BestRunLoops().four_bit(table, run.values, run.count, is_short ? 1.0f : 1.0f / divisor, codes);
}

// The CPU library's table from [-1, 1] in 65536 steps to the code of the dynamic map.
const std::vector<uint8_t>& DynamicCodeTable() {
  static const auto* table = [] {
    const std::vector<float>& map = SignedDynamicMap();
    std::vector<float> midpoints;
    for (size_t i = 0; i + 1 < map.size(); ++i) midpoints.push_back(0.5f * (map[i] + map[i + 1]));
    auto* codes = new std::vector<uint8_t>(65536);
    for (int i = 0; i < 65536; ++i) {
      const float value = -1.0f + (2.0f * static_cast<float>(i)) / 65535.0f;
      codes->at(i) = static_cast<uint8_t>(
          std::lower_bound(midpoints.begin(), midpoints.end(), value) - midpoints.begin());
    }
    return codes;
  }();
  return *table;
}

uint8_t DynamicCode(float value) {
  const float t = std::clamp(value, -1.0f, 1.0f);
  return DynamicCodeTable()[static_cast<int>((t + 1.0f) * 0.5f * 65535.0f + 0.5f)];
}

// Replaces `scale` by what its 8-bit codes stand for.
NestedScales QuantizeScales(std::vector<float>* scale) {
  const int64_t count = static_cast<int64_t>(scale->size());
  NestedScales nested;
  nested.shift = TorchMean(*scale);
  nested.super_size = kNestedBlock;
  nested.code_table = SignedDynamicMap();
  nested.scale_codes.resize(scale->size());
  nested.super_scale.resize(static_cast<size_t>((count + kNestedBlock - 1) / kNestedBlock));
  for (int64_t begin = 0; begin < count; begin += kNestedBlock) {
    const int64_t end = std::min(begin + kNestedBlock, count);
    float absmax = 0;
    for (int64_t i = begin; i < end; ++i) {
      absmax = std::max(absmax, std::fabs((*scale)[i] - nested.shift));
    }
    const float inverse = absmax > 0 ? 1.0f / absmax : 0;
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t code = absmax > 0 ? DynamicCode(((*scale)[i] - nested.shift) * inverse) : 0;
      nested.scale_codes[i] = code;
      (*scale)[i] = nested.code_table[code] * absmax + nested.shift;
    }
    nested.super_scale[begin / kNestedBlock] = absmax;
  }
  return nested;
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeFourBit(const TensorView& weight, const FourBitSpec& spec) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.dequantized_dtype = weight.dtype;
  out.grid = TableGrid(4, {spec.table->values.begin(), spec.table->values.end()});
  out.block = {.rows = 1, .cols = spec.block_size, .flat = true};
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  ForEachRun(weight, layout, [&](const Run& run) {
    const float absmax = BestRunLoops().range(run.values, run.count).absmax();
    out.scale[run.block] = absmax;
    EncodeFourBit(*spec.table, run, absmax, run.count < spec.block_size,
                  out.codes.data() + run.first);
  });
  if (spec.double_quant) out.nested = QuantizeScales(&out.scale);
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsInt8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, layout, [&](const Run& run) {
    loops.saturate_float16(run.values, run.count);
    const float absmax = loops.range(run.values, run.count).absmax();
    out.scale[run.block] = absmax;
    // A row of zeros: 0 * inf would be NaN, which upstream casts to 0.
    const float inverse = absmax > 0 ? (1.0f / absmax) * 127.0f : 0.0f;
    loops.In(DType::kF32)
        .multiplied(run.values, run.count, inverse, {0, -128, 127, -128},
                    out.codes.data() + run.first);
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsFullInt8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  out.scale_dtype = weight.dtype;
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale.resize(static_cast<size_t>(layout.block_count()));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, layout, [&](const Run& run) {
    // Infinities of a float16 matrix come from a cast of the whole model.
    if (weight.dtype == DType::kF16) loops.saturate_float16(run.values, run.count);
    const float divisor = loops.range(run.values, run.count).absmax() * (1.0f / 128.0f);
    out.scale[run.block] = RoundTo(out.scale_dtype, divisor);
    loops.int8_away(run.values, run.count, divisor, out.codes.data() + run.first);
  });
  return out;
}

}  // namespace quantd

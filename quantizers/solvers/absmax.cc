#include "quantizers/solvers/absmax.h"

#include <algorithm>
#include <cmath>

#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/rounding.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

constexpr int64_t kNestedBlock = 256;

// Codes of one block. Upstream multiplies by the reciprocal, but divides in a short last block.
void EncodeFourBit(const FourBitTable& table, const Run& run, float absmax, bool is_short,
                   uint8_t* codes) {
  constexpr int64_t kChunk = 64;
  const float divisor = std::max(absmax, 1e-38f);
  const float inverse = 1.0f / divisor;
  for (int64_t begin = 0; begin < run.count; begin += kChunk) {
    const int64_t count = std::min(kChunk, run.count - begin);
    float scaled[kChunk] = {};
    int32_t rank[kChunk] = {};
    for (int64_t i = 0; i < count; ++i) {
      const float value = run.values[begin + i];
      scaled[i] = std::clamp(is_short ? value / divisor : value * inverse, -1.0f, 1.0f);
    }
    for (const float midpoint : table.midpoints) {
      for (int64_t i = 0; i < kChunk; ++i) rank[i] += scaled[i] > midpoint;
    }
    for (int64_t i = 0; i < count; ++i) codes[begin + i] = table.code_of_rank[rank[i]];
  }
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

std::vector<float> AbsMaxOf(const std::vector<Range>& ranges) {
  std::vector<float> absmax(ranges.size());
  std::transform(ranges.begin(), ranges.end(), absmax.begin(),
                 [](const Range& range) { return range.absmax(); });
  return absmax;
}

Tensor ToSaturatedFloat16(const TensorView& weight) {
  Tensor half = ConvertTensor(weight, DType::kF16);
  // Also for float16 input: its infinities come from a cast of the whole model.
  constexpr uint16_t kInfinity = 0x7c00;
  for (size_t i = 0; i + 1 < half.bytes.size(); i += 2) {
    uint16_t bits;
    std::memcpy(&bits, &half.bytes[i], 2);
    if ((bits & 0x7fff) != kInfinity) continue;
    bits = static_cast<uint16_t>((bits & 0x8000) | (kInfinity - 1));
    std::memcpy(&half.bytes[i], &bits, 2);
  }
  return half;
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
  out.scale = AbsMaxOf(BlockRanges(weight, layout));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  ForEachRun(weight, layout, [&](const Run& run) {
    EncodeFourBit(*spec.table, run, out.scale[run.block], run.count < spec.block_size,
                  out.codes.data() + run.first);
  });
  if (spec.double_quant) out.nested = QuantizeScales(&out.scale);
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsInt8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const Tensor half = ToSaturatedFloat16(weight);
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  const BlockLayout layout{out.rows, out.cols, out.block};
  out.scale = AbsMaxOf(BlockRanges(half, layout));
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  ForEachRun(half, layout, [&](const Run& run) {
    const float absmax = out.scale[run.block];
    // A row of zeros: 0 * inf would be NaN, which upstream casts to 0.
    const float inverse = absmax > 0 ? (1.0f / absmax) * 127.0f : 0.0f;
    uint8_t* codes = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      codes[i] =
          static_cast<uint8_t>(static_cast<int>(RoundHalfEven(run.values[i] * inverse)) + 128);
    }
  });
  return out;
}

absl::StatusOr<QuantizedTensor> QuantizeRowsFullInt8(const TensorView& weight) {
  RETURN_IF_ERROR(CheckWeight(weight));
  const Tensor finite =
      weight.dtype == DType::kF16
          ? ToSaturatedFloat16(weight)
          : Tensor{weight.dtype, weight.shape, {weight.bytes.begin(), weight.bytes.end()}};
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = UniformGrid(8, /*is_signed=*/true);
  out.scale_dtype = weight.dtype;
  const BlockLayout layout{out.rows, out.cols, out.block};
  std::vector<float> divisors;
  for (const Range& range : BlockRanges(finite, layout)) {
    divisors.push_back(range.absmax() * (1.0f / 128.0f));
    out.scale.push_back(RoundTo(out.scale_dtype, divisors.back()));
  }
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  ForEachRun(finite, layout, [&](const Run& run) {
    const float divisor = divisors[run.block];
    uint8_t* codes = out.codes.data() + run.first;
    for (int64_t i = 0; i < run.count; ++i) {
      const float value = divisor > 0 ? std::round(run.values[i] / divisor) : 0.0f;
      codes[i] = static_cast<uint8_t>(static_cast<int>(std::clamp(value, -128.0f, 127.0f)) + 128);
    }
  });
  return out;
}

}  // namespace quantd

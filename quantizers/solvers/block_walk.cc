#include "quantizers/solvers/block_walk.h"

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// Eight independent lanes keep the loop free of a serial dependency, so that it vectorizes.
Range RangeOf(const float* values, int64_t count) {
  constexpr int kLanes = 8;
  float low[kLanes] = {};
  float high[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float value = values[i + lane];
      low[lane] = value < low[lane] ? value : low[lane];
      high[lane] = value > high[lane] ? value : high[lane];
    }
  }
  Range range;
  for (int lane = 0; lane < kLanes; ++lane) {
    range.min = std::min(range.min, low[lane]);
    range.max = std::max(range.max, high[lane]);
  }
  for (; i < count; ++i) {
    range.min = std::min(range.min, values[i]);
    range.max = std::max(range.max, values[i]);
  }
  return range;
}

}  // namespace

absl::Status CheckWeight(const TensorView& weight) {
  if (weight.shape.size() != 2 || weight.shape[0] <= 0 || weight.shape[1] <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "found a weight of shape ", ToString(weight.shape), ", expected a matrix [out, in]"));
  }
  switch (weight.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(absl::StrCat("found a weight of dtype ",
                                                     InfoOf(weight.dtype).torch_name,
                                                     ", expected float32, float16 or bfloat16"));
  }
}

std::vector<Range> BlockRanges(const TensorView& weight, const BlockLayout& layout) {
  const bool one_run_per_block = layout.shape.flat || layout.tile_rows() == 1;
  const int64_t segments =
      layout.shape.flat ? layout.block_count() : layout.rows * layout.block_columns();
  std::vector<Range> ranges(static_cast<size_t>(segments));
  ForEachRun(weight, layout,
             [&](const Run& run) { ranges[run.segment] = RangeOf(run.values, run.count); });
  if (one_run_per_block) return ranges;
  std::vector<Range> blocks(static_cast<size_t>(layout.block_count()));
  const int64_t columns = layout.block_columns();
  for (int64_t row = 0; row < layout.rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      const Range& part = ranges[row * columns + column];
      Range& whole = blocks[row / layout.tile_rows() * columns + column];
      whole.min = std::min(whole.min, part.min);
      whole.max = std::max(whole.max, part.max);
    }
  }
  return blocks;
}

}  // namespace quantd

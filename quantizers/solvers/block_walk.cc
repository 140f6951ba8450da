#include "quantizers/solvers/block_walk.h"

#include "absl/strings/str_cat.h"

namespace quantd {
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
  const int64_t segments =
      layout.shape.flat ? layout.block_count() : layout.rows * layout.block_columns();
  std::vector<Range> ranges(static_cast<size_t>(segments));
  const RunLoops& loops = BestRunLoops();
  ForEachRun(weight, layout,
             [&](const Run& run) { ranges[run.segment] = loops.range(run.values, run.count); });
  if (layout.one_run_per_block()) return ranges;
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

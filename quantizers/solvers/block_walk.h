// Walks over a matrix in runs that share a block, so that quantizers are plain loops over floats.
#ifndef QUANTD_QUANTIZERS_SOLVERS_BLOCK_WALK_H_
#define QUANTD_QUANTIZERS_SOLVERS_BLOCK_WALK_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/float_types.h"
#include "core/parallel.h"
#include "core/quantized_tensor.h"
#include "core/status.h"
#include "core/tensor.h"
#include "quantizers/solvers/run_loops.h"

namespace quantd {

// A matrix and how it is cut into blocks. Block numbers are those of QuantizedTensor::block_of.
struct BlockLayout {
  int64_t rows = 0;
  int64_t cols = 0;
  BlockShape shape;

  // Whether every block is one run, so that its scale and its codes can be found in one walk.
  bool one_run_per_block() const { return shape.flat || tile_rows() == 1; }
  int64_t tile_rows() const { return shape.rows > 0 ? shape.rows : rows; }
  int64_t tile_cols() const { return shape.cols > 0 ? shape.cols : cols; }
  int64_t block_columns() const { return (cols + tile_cols() - 1) / tile_cols(); }
  int64_t block_count() const {
    return shape.flat ? (rows * cols + shape.cols - 1) / shape.cols
                      : (rows + tile_rows() - 1) / tile_rows() * block_columns();
  }
};

// INVALID_ARGUMENT unless `weight` is a matrix of float32, float16 or bfloat16 with elements.
absl::Status CheckWeight(const TensorView& weight);

// Consecutive elements of one block. `segment` counts runs in the order of elements.
struct Run {
  float* values;  // a copy, the body's own
  int64_t count;
  int64_t first;  // element index in the flattened matrix
  int64_t block;
  int64_t segment;
};

// Calls body(Run) for every run of `weight`, widened to float, in parallel and in any order.
template <class Body>
void ForEachRun(const TensorView& weight, const BlockLayout& layout, const Body& body) {
  const bool flat = layout.shape.flat;
  const int64_t total = layout.rows * layout.cols;
  const int64_t width = layout.tile_cols();
  const int64_t per_row = layout.block_columns();
  // A slice is a row, or some thousand elements of the flattened matrix.
  const int64_t slice = flat ? width * std::max<int64_t>(1, 16384 / width) : layout.cols;
  constexpr double kSecondsPerElement = 1e-9;  // about
  const auto run_slice = [&](int64_t index) {
    thread_local std::vector<float> values;
    const int64_t begin = index * slice;
    const int64_t count = std::min(slice, total - begin);
    values.resize(static_cast<size_t>(count));
    LoadFloats(weight, begin, count, values.data());
    for (int64_t i = 0, k = 0; i < count; i += width, ++k) {
      const int64_t segment = flat ? begin / width + k : index * per_row + k;
      const int64_t block = flat ? segment : index / layout.tile_rows() * per_row + k;
      body(Run{values.data() + i, std::min(width, count - i), begin + i, block, segment});
    }
  };
  ParallelFor((total + slice - 1) / slice, run_slice,
              kSecondsPerElement * static_cast<double>(slice));
}

// Smallest and largest element of a block, with zero always between them; one per block.
std::vector<Range> BlockRanges(const TensorView& weight, const BlockLayout& layout);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_BLOCK_WALK_H_

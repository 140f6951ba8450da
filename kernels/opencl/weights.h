// What the backend hands out: matrices, arrays and caches in device memory.
#ifndef QUANTD_KERNELS_OPENCL_WEIGHTS_H_
#define QUANTD_KERNELS_OPENCL_WEIGHTS_H_

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/opencl/buffer.h"
#include "kernels/opencl/format.h"
#include "kernels/opencl/pack.h"

namespace quantd::opencl {

// Consecutive rows of a matrix that share a format: the unit of a launch.
struct Segment {
  WeightFormat format;  // without the table, which is on the device
  std::string defines;
  int64_t first_row = 0;  // in the whole matrix
  int64_t rows = 0;
  int64_t chunks_per_row = 0;
  int64_t blocks_per_row = 0;
  Buffer chunks;
  Buffer scales;  // the buffers below are one byte when the format has no use for them
  Buffer zeros;
  Buffer table;
};

class ClWeight final : public PackedWeight {
 public:
  // Stacks `parts`; neighbours of equal format become one segment.
  static absl::StatusOr<std::unique_ptr<ClWeight>> Create(std::span<const PartImage> parts,
                                                          Queue& queue);

  Layout layout() const override { return layout_; }
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  uint64_t bytes() const override;
  const std::vector<Segment>& segments() const { return segments_; }

 private:
  Layout layout_ = Layout::kDense;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  std::vector<Segment> segments_;
};

class ClArray final : public DeviceArray {
 public:
  static absl::StatusOr<std::unique_ptr<ClArray>> Create(int64_t rows, int64_t cols, Queue& queue);

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  const Buffer& buffer() const { return buffer_; }

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  Buffer buffer_;
};

class ClOrder final : public ColumnOrder {
 public:
  static absl::StatusOr<std::unique_ptr<ClOrder>> Create(std::span<const int32_t> order,
                                                         Queue& queue);

  int64_t cols() const override { return cols_; }
  const Buffer& buffer() const { return buffer_; }

 private:
  int64_t cols_ = 0;
  Buffer buffer_;
};

// The kernels' `capacity`: a multiple of eight, so that vectors of keys stay inside of the buffer.
inline int PaddedCapacity(int tokens) { return (tokens + 7) / 8 * 8; }

// A buffer of keys and one of values per layer, so that no single allocation is large; their layout
// is described in attention.cl.
class ClKvCache final : public KvCache {
 public:
  static absl::StatusOr<std::unique_ptr<ClKvCache>> Create(const KvShape& shape, Queue& queue);

  const KvShape& shape() const override { return shape_; }
  uint64_t bytes() const override;
  const Buffer& keys(int layer) const { return layers_[layer].first; }
  const Buffer& values(int layer) const { return layers_[layer].second; }

 private:
  KvShape shape_;
  std::vector<std::pair<Buffer, Buffer>> layers_;
};

// Every handle given to a backend is one that this backend made.
inline const ClWeight& AsCl(const PackedWeight& weight) {
  return static_cast<const ClWeight&>(weight);
}
inline const ClArray& AsCl(const DeviceArray& array) { return static_cast<const ClArray&>(array); }
inline const ClOrder& AsCl(const ColumnOrder& order) { return static_cast<const ClOrder&>(order); }
inline const ClKvCache& AsCl(const KvCache& cache) { return static_cast<const ClKvCache&>(cache); }

}  // namespace quantd::opencl

#endif  // QUANTD_KERNELS_OPENCL_WEIGHTS_H_

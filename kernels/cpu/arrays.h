// The CPU backend's implementations of the device objects.
#ifndef QUANTD_KERNELS_CPU_ARRAYS_H_
#define QUANTD_KERNELS_CPU_ARRAYS_H_

#include <utility>
#include <vector>

#include "core/buffer.h"
#include "kernels/backend.h"
#include "kernels/cpu/packed_matrix.h"

namespace quantd::cpu {

class CpuArray : public DeviceArray {
 public:
  CpuArray(int64_t rows, int64_t cols, Buffer storage)
      : rows_(rows), cols_(cols), storage_(std::move(storage)) {}
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  float* data() { return reinterpret_cast<float*>(storage_.data()); }
  const float* data() const { return reinterpret_cast<const float*>(storage_.data()); }
  float* row(int64_t r) { return data() + r * cols_; }
  const float* row(int64_t r) const { return data() + r * cols_; }

 private:
  int64_t rows_, cols_;
  Buffer storage_;
};

inline CpuArray& AsCpu(DeviceArray& array) { return static_cast<CpuArray&>(array); }
inline const CpuArray& AsCpu(const DeviceArray& array) {
  return static_cast<const CpuArray&>(array);
}

class CpuOrder : public ColumnOrder {
 public:
  explicit CpuOrder(std::vector<int32_t> order) : order_(std::move(order)) {}
  int64_t cols() const override { return static_cast<int64_t>(order_.size()); }
  const int32_t* data() const { return order_.data(); }

 private:
  std::vector<int32_t> order_;
};

inline const CpuOrder& AsCpu(const ColumnOrder& order) {
  return static_cast<const CpuOrder&>(order);
}

// Parts stacked by rows, each in its own format.
class CpuWeight : public PackedWeight {
 public:
  explicit CpuWeight(std::vector<PackedMatrix> parts) : parts_(std::move(parts)) {
    for (const PackedMatrix& part : parts_) {
      rows_ += part.rows;
      bytes_ += part.storage.size;
    }
  }
  Layout layout() const override { return parts_.front().layout; }
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return parts_.front().columns.cols; }
  uint64_t bytes() const override { return bytes_; }
  const std::vector<PackedMatrix>& parts() const { return parts_; }

 private:
  std::vector<PackedMatrix> parts_;
  int64_t rows_ = 0;
  uint64_t bytes_ = 0;
};

inline const CpuWeight& AsCpu(const PackedWeight& weight) {
  return static_cast<const CpuWeight&>(weight);
}

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_ARRAYS_H_

// Sums in the order in which torch sums, where upstream's bytes depend on it.
#ifndef QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_
#define QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_

#include <cstdint>
#include <span>

namespace quantd {

// torch.sum of a contiguous float32 vector on one CPU thread: the cascade sum of
// aten/src/ATen/native/cpu/SumKernel.cpp (torch 2.15) with its 8-lane vectors.
// torch itself splits vectors of 32768 elements and more among its threads, so there its own
// last bit depends on the machine; this is what one thread gives. `values` is not empty.
float TorchSum(std::span<const float> values);
// The same divided by the count.
float TorchMean(std::span<const float> values);

// torch.linalg.norm of a contiguous float32 vector: eight interleaved sums of squares, added up one
// after the other (aten/src/ATen/native/cpu/ReduceOpsKernel.cpp). The squares are not fused into
// the sums, which makes no difference to values of float16 or bfloat16.
float TorchNorm(std::span<const float> values);

// torch.mean over the rows of a contiguous float32 matrix [rows, cols], into means[cols]. Torch
// adds columns behind the last multiple of 32 in another order than those before, so a part of a
// wider matrix gives the same as the whole when it begins and ends at multiples of 32 or at the
// edge.
void TorchColumnMeans(const float* values, int64_t rows, int64_t cols, float* means);

// TorchSum of `count` values that are not in memory at once, from sums of parts of them.
class TorchSumInParts {
 public:
  static constexpr int kSums = 32;  // of a part

  explicit TorchSumInParts(int64_t count);
  // Values of a part. Parts follow each other from the first value on; what is behind the last
  // whole one is the rest.
  int64_t part_size() const { return part_rows_ * kSums; }
  void SumPart(const float* values, float* sums) const;
  // From the sums of all parts, in order, and the values of the rest.
  float Total(std::span<const float> sums, std::span<const float> rest) const;

 private:
  int64_t count_;
  int64_t part_rows_;
};

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_

// Sums in the order in which torch sums, where upstream's bytes depend on it.
#ifndef QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_
#define QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_

#include <span>

namespace quantd {

// torch.sum of a contiguous float32 vector on one CPU thread: the cascade sum of
// aten/src/ATen/native/cpu/SumKernel.cpp (torch 2.15) with its 8-lane vectors.
// torch itself splits vectors of 32768 elements and more among its threads, so there its own
// last bit depends on the machine; this is what one thread gives. `values` is not empty.
float TorchSum(std::span<const float> values);
// The same divided by the count.
float TorchMean(std::span<const float> values);

}  // namespace quantd

#endif  // QUANTD_QUANTIZERS_SOLVERS_TORCH_SUM_H_

// A tensor is dtype + shape + bytes. TensorView borrows, Tensor owns.
#ifndef QUANTD_CORE_TENSOR_H_
#define QUANTD_CORE_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace quantd {

// Row-major; the last dimension is contiguous. A scalar has no dimensions.
using Shape = std::vector<int64_t>;

// Product of the dimensions; 1 for a scalar. The caller has checked that it does not overflow.
int64_t NumElements(const Shape& shape);
// "[576, 1536]"
std::string ToString(const Shape& shape);

// Bytes are little-endian and may be unaligned; read elements by memcpy or LoadFloats.
struct TensorView {
  DType dtype = DType::kF32;
  Shape shape;
  std::span<const std::byte> bytes;

  int64_t elements() const { return NumElements(shape); }
};

struct Tensor {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;

  TensorView view() const { return {dtype, shape, bytes}; }
  operator TensorView() const { return view(); }  // NOLINT: a tensor is a view of itself
};

// A zero-filled tensor.
Tensor MakeTensor(DType dtype, Shape shape);

template <class T>
Tensor TensorOf(DType dtype, Shape shape, std::span<const T> values) {
  const auto bytes = std::as_bytes(values);
  return {dtype, std::move(shape), {bytes.begin(), bytes.end()}};
}

inline Tensor CopyOf(const TensorView& view) {
  return {view.dtype, view.shape, {view.bytes.begin(), view.bytes.end()}};
}

// A copy of `view` converted to the floating point type `dtype`, in parallel.
Tensor ConvertTensor(const TensorView& view, DType dtype);

}  // namespace quantd

#endif  // QUANTD_CORE_TENSOR_H_

#include "core/tensor.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd {

int64_t NumElements(const Shape& shape) {
  int64_t product = 1;
  for (const int64_t dim : shape) product *= dim;
  return product;
}

std::string ToString(const Shape& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

Tensor MakeTensor(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(NumElements(shape)) * SizeOf(dtype);
  return {dtype, std::move(shape), std::vector<std::byte>(bytes)};
}

Tensor ConvertTensor(const TensorView& view, DType dtype) {
  Tensor out = MakeTensor(dtype, view.shape);
  constexpr int64_t kChunk = 4096;
  const int64_t count = view.elements();
  ParallelFor((count + kChunk - 1) / kChunk, [&](int64_t chunk) {
    float buffer[kChunk];
    const int64_t first = chunk * kChunk;
    const int64_t n = std::min(kChunk, count - first);
    LoadFloats(view, first, n, buffer);
    StoreFloats(dtype, buffer, n, out.bytes.data() + first * SizeOf(dtype));
  });
  return out;
}

}  // namespace quantd

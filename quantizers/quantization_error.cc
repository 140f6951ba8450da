#include "quantizers/quantization_error.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int64_t kSampledRows = 256;
constexpr int64_t kChunk = 4096;

// Smallest index in the chunk whose value is not finite, or -1.
int64_t FirstNonFinite(const TensorView& tensor, int64_t first, int64_t count) {
  float values[kChunk];
  LoadFloats(tensor, first, count, values);
  bool finite = true;
  for (int64_t i = 0; i < count; ++i) finite &= std::isfinite(values[i]);
  if (finite) return -1;
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) return first + i;
  }
  return -1;
}

}  // namespace

double RelativeError(const TensorView& weight, const QuantizedTensor& quantized) {
  const int64_t rows = std::min(quantized.rows, kSampledRows);
  if (rows == 0 || quantized.cols == 0) return 0;
  std::vector<double> error(rows), norm(rows);
  ParallelFor(rows, [&](int64_t i) {
    const int64_t row = i * quantized.rows / rows;
    std::vector<float> source(quantized.cols), approximation(quantized.cols);
    LoadFloats(weight, row * quantized.cols, quantized.cols, source.data());
    PlainRows(quantized, row, 1, approximation.data());
    for (int64_t col = 0; col < quantized.cols; ++col) {
      const double difference = source[col] - approximation[col];
      error[i] += difference * difference;
      norm[i] += static_cast<double>(source[col]) * source[col];
    }
  });
  double total_error = 0, total_norm = 0;
  for (int64_t i = 0; i < rows; ++i) {
    total_error += error[i];
    total_norm += norm[i];
  }
  return total_norm > 0 ? std::sqrt(total_error / total_norm) : 0;
}

absl::Status CheckFinite(absl::string_view name, const TensorView& tensor) {
  if (!InfoOf(tensor.dtype).is_float) return absl::OkStatus();
  const int64_t count = tensor.elements();
  std::atomic<int64_t> found{count};
  ParallelFor((count + kChunk - 1) / kChunk, [&](int64_t chunk) {
    const int64_t first = chunk * kChunk;
    const int64_t index = FirstNonFinite(tensor, first, std::min(kChunk, count - first));
    if (index < 0) return;
    for (int64_t seen = found; index < seen && !found.compare_exchange_weak(seen, index);) {
    }
  });
  if (found == count) return absl::OkStatus();
  std::vector<int64_t> position(tensor.shape.size());
  int64_t index = found;
  for (size_t dim = position.size(); dim-- > 0; index /= tensor.shape[dim]) {
    position[dim] = index % tensor.shape[dim];
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", name, " holds ", LoadFloat(tensor, found), " at ", ToString(position),
      ": quantize a finite checkpoint, or set nonfinite=zero to treat such values as 0"));
}

int64_t ZeroNonFinite(Tensor& tensor) {
  int64_t zeroed = 0;
  const int64_t count = tensor.view().elements();
  const float zero = 0;
  for (int64_t first = 0; first < count; first += kChunk) {
    const int64_t end = std::min(count, first + kChunk);
    for (int64_t i = first; (i = FirstNonFinite(tensor, i, end - i)) >= 0; ++i, ++zeroed) {
      StoreFloats(tensor.dtype, &zero, 1, tensor.bytes.data() + i * SizeOf(tensor.dtype));
    }
  }
  return zeroed;
}

}  // namespace quantd

#include "quantizers/quantization_error.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "quantizers/solvers/run_loops.h"

namespace quantd {
namespace {

constexpr int64_t kSampledRows = 256;
constexpr double kSecondsPerElement = 1e-9;  // about
constexpr int64_t kChunk = 4096;

// The largest magnitude of `count` elements, whose bits order as their magnitudes do.
template <class T>
T LargestMagnitude(const std::byte* bytes, int64_t count) {
  constexpr T kMagnitude = std::numeric_limits<T>::max();  // all but the sign
  T largest = 0;
  for (int64_t i = 0; i < count; ++i) {
    T bits;
    std::memcpy(&bits, bytes + i * sizeof(T), sizeof(T));
    largest = std::max(largest, static_cast<T>(bits & kMagnitude));
  }
  return largest;
}

// Whether an element may be no finite number of `dtype`; false is certain.
bool MayBeNonFinite(const TensorView& tensor, DType dtype, int64_t first, int64_t count) {
  // The least float32 that float16 has no place for.
  const float limit = dtype == DType::kF16 ? 65520.0f : std::numeric_limits<float>::infinity();
  const auto bits = std::bit_cast<int32_t>(limit);
  const std::byte* bytes = tensor.bytes.data() + first * SizeOf(tensor.dtype);
  switch (tensor.dtype) {
    case DType::kF32:
      return LargestMagnitude<int32_t>(bytes, count) >= bits;
    case DType::kBF16:
      return LargestMagnitude<int16_t>(bytes, count) >= bits >> 16;
    case DType::kF16:
      return LargestMagnitude<int16_t>(bytes, count) >= 0x7c00;
    default:
      return true;
  }
}

// Smallest index in the chunk whose value is not finite, or -1.
int64_t FirstNonFinite(const TensorView& tensor, DType dtype, int64_t first, int64_t count) {
  if (!MayBeNonFinite(tensor, dtype, first, count)) return -1;
  float values[kChunk];
  LoadFloats(tensor, first, count, values);
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(RoundTo(dtype, values[i]))) return first + i;
  }
  return -1;
}

// Smallest index in the tensor whose value is not finite, or -1.
int64_t FirstNonFinite(const TensorView& tensor, DType dtype) {
  constexpr int64_t kTask = 16 * kChunk;
  constexpr double kSecondsPerTask = 20e-6;  // about
  const int64_t count = tensor.elements();
  std::atomic<int64_t> found{count};
  const auto check = [&](int64_t task) {
    const int64_t end = std::min(count, (task + 1) * kTask);
    for (int64_t first = task * kTask; first < end; first += kChunk) {
      const int64_t index = FirstNonFinite(tensor, dtype, first, std::min(kChunk, end - first));
      if (index < 0) continue;
      for (int64_t seen = found; index < seen && !found.compare_exchange_weak(seen, index);) {
      }
      return;
    }
  };
  ParallelFor((count + kTask - 1) / kTask, check, kSecondsPerTask);
  return found == count ? -1 : found.load();
}

}  // namespace

double RelativeError(const TensorView& weight, const QuantizedTensor& quantized) {
  const int64_t rows = std::min(quantized.rows, kSampledRows);
  if (rows == 0 || quantized.cols == 0) return 0;
  std::vector<double> error(rows), norm(rows);
  const auto add_row = [&](int64_t i) {
    thread_local std::vector<float> source, approximation;
    source.resize(static_cast<size_t>(quantized.cols));
    approximation.resize(static_cast<size_t>(quantized.cols));
    const int64_t row = i * quantized.rows / rows;
    LoadFloats(weight, row * quantized.cols, quantized.cols, source.data());
    PlainRows(quantized, row, 1, approximation.data());
    const SquareSums sums =
        BestRunLoops().squares(source.data(), approximation.data(), quantized.cols);
    error[i] = sums.difference;
    norm[i] = sums.values;
  };
  ParallelFor(rows, add_row, kSecondsPerElement * static_cast<double>(quantized.cols));
  double total_error = 0, total_norm = 0;
  for (int64_t i = 0; i < rows; ++i) {
    total_error += error[i];
    total_norm += norm[i];
  }
  return total_norm > 0 ? std::sqrt(total_error / total_norm) : 0;
}

absl::Status CheckFinite(absl::string_view name, const TensorView& tensor) {
  return CheckFinite(name, tensor, tensor.dtype);
}

absl::Status CheckFinite(absl::string_view name, const TensorView& tensor, DType dtype) {
  if (!InfoOf(tensor.dtype).is_float) return absl::OkStatus();
  const int64_t found = FirstNonFinite(tensor, dtype);
  if (found < 0) return absl::OkStatus();
  std::vector<int64_t> position(tensor.shape.size());
  int64_t index = found;
  for (size_t dim = position.size(); dim-- > 0; index /= tensor.shape[dim]) {
    position[dim] = index % tensor.shape[dim];
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", name, " holds ", RoundTo(dtype, LoadFloat(tensor, found)), " at ",
      ToString(position),
      ": quantize a finite checkpoint, or set nonfinite=zero to treat such values as 0"));
}

int64_t ZeroNonFinite(Tensor& tensor) {
  const int64_t begin = FirstNonFinite(tensor, tensor.dtype);
  if (begin < 0) return 0;
  int64_t zeroed = 0;
  const int64_t count = tensor.view().elements();
  const float zero = 0;
  for (int64_t first = begin; first < count; first += kChunk) {
    const int64_t end = std::min(count, first + kChunk);
    for (int64_t i = first; (i = FirstNonFinite(tensor, tensor.dtype, i, end - i)) >= 0;
         ++i, ++zeroed) {
      StoreFloats(tensor.dtype, &zero, 1, tensor.bytes.data() + i * SizeOf(tensor.dtype));
    }
  }
  return zeroed;
}

}  // namespace quantd

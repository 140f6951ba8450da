#include "quantizers/solvers/rotated_fp4.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/hadamard.h"
#include "quantizers/grids/small_floats.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/pieces.h"

namespace quantd {
namespace {

absl::Status CheckSpec(const TensorView& weight, const RotatedFp4Spec& spec) {
  const bool fits =
      spec.size > 0 && spec.size % spec.blocks.size() == 0 && weight.shape[1] % spec.size == 0 &&
      (spec.rotation.empty() || spec.rotation.size() == static_cast<size_t>(spec.size * spec.size));
  if (fits && spec.blocks.any() && spec.blocks.global_scale > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("rotations of ", spec.size, " columns do not fit ",
                                                 weight.shape[1], " columns"));
}

// Sums beyond float32, once more in double, are cut at its largest number.
void CutOverflow(const float* row, const RotatedFp4Spec& spec, int64_t cols, float* rotated) {
  constexpr double kMost = std::numeric_limits<float>::max();
  for (int64_t c = 0; c < cols; ++c) {
    if (std::isfinite(rotated[c])) continue;
    const int64_t begin = c / spec.size * spec.size;
    double sum = 0;
    for (int64_t i = 0; i < spec.size; ++i) {
      sum += static_cast<double>(row[begin + i]) * spec.rotation[i * spec.size + c - begin];
    }
    rotated[c] = static_cast<float>(std::clamp(sum, -kMost, kMost));
  }
}

// How often neighbours in a column of H, whose entries are signs, differ.
int64_t SignChanges(const std::vector<float>& signs, int64_t size, int64_t column) {
  int64_t changes = 0;
  for (int64_t row = 1; row < size; ++row) {
    changes += signs[row * size + column] != signs[(row - 1) * size + column];
  }
  return changes;
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeRotatedFp4(const TensorView& weight,
                                                   const RotatedFp4Spec& spec,
                                                   const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  RETURN_IF_ERROR(CheckSpec(weight, spec));
  const int64_t width = spec.blocks.size();
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.grid = E2M1Grid();
  out.block = {.rows = 1, .cols = width};
  out.scale_dtype =
      spec.blocks.scale == Fp4Blocks::Scale::kE4M3OfMax ? DType::kF8E4M3 : DType::kF8E8M0;
  out.post_scale = 1.0f / spec.blocks.global_scale;
  if (!spec.rotation.empty()) {
    out.input.hadamard_size = static_cast<int>(spec.size);
    out.input.rotation.assign(spec.rotation.begin(), spec.rotation.end());
  }
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.scale.resize(static_cast<size_t>(out.block_count()));
  const auto quantize_row = [&](int64_t row) {
    std::vector<float> values(static_cast<size_t>(out.cols));
    LoadFloats(weight, row * out.cols, out.cols, values.data());
    if (!spec.rotation.empty()) {
      std::vector<float> rotated(values.size());
      MultiplyByMatrix(values.data(), out.cols, spec.rotation.data(), spec.size, rotated.data());
      CutOverflow(values.data(), spec, out.cols, rotated.data());
      values.swap(rotated);
    }
    for (int64_t first = 0; first < out.cols; first += width) {
      out.scale[(row * out.cols + first) / width] = EncodeFp4Block(
          spec.blocks, values.data() + first, width, out.codes.data() + row * out.cols + first);
    }
  };
  RETURN_IF_ERROR(ParallelForUnlessStopped(out.rows, stopped, quantize_row));
  return out;
}

std::vector<float> FpQuantRotation(const std::string& transform, int64_t size, DType dtype) {
  if (transform == "identity") return {};
  std::vector<float> signs(static_cast<size_t>(size * size));
  for (int64_t row = 0; row < size; ++row) {
    signs[row * size + row] = 1;
    HadamardTransform(&signs[row * size], size);
  }
  const auto entry = RoundTo(dtype, static_cast<float>(1.0 / std::sqrt(static_cast<double>(size))));
  std::vector<float> rotation(signs.size());
  for (int64_t column = 0; column < size; ++column) {
    // Columns change sign 0 to size - 1 times, each another number of times.
    const int64_t to = transform == "gsr" ? SignChanges(signs, size, column) : column;
    for (int64_t row = 0; row < size; ++row) {
      rotation[row * size + to] = signs[row * size + column] * entry;
    }
  }
  return rotation;
}

}  // namespace quantd

#include "quantizers/solvers/rotated_grid.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/hadamard.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/torch_sum.h"

namespace quantd {
namespace {

// The point with the largest 2 <v, point> - |point|^2, the first of equal ones, as upstream's
// argmax over all points finds it. For pairs, a map of the plane says which points can be nearest
// in each of its cells, so that a few are compared instead of 256.
class NearestPoint {
 public:
  NearestPoint(std::span<const float> grid, int dimensions) : dimensions_(dimensions) {
    for (size_t i = 0; i < grid.size(); i += dimensions) {
      Point point{grid[i], dimensions == 2 ? grid[i + 1] : 0.0f, 0};
      const float norm = std::sqrt(point.x * point.x + point.y * point.y);
      point.square = norm * norm;
      points_.push_back(point);
      all_.push_back(static_cast<uint8_t>(all_.size()));
    }
    if (dimensions == 2) MapPlane();
  }

  uint8_t Find(const float* values) const {
    if (dimensions_ == 1) return Best(values[0], 0, all_);
    const int column = CellOf(values[0]), row = CellOf(values[1]);
    const bool mapped = column >= 0 && row >= 0;
    return Best(values[0], values[1], mapped ? cells_[row * kCells + column] : all_);
  }

 private:
  static constexpr int kCells = 64;
  static constexpr float kReach = 4;  // normal values are rarely further out
  static constexpr float kCellWidth = 2 * kReach / kCells;
  // Squared distances within this are left to the comparison, whose rounding is far below it.
  static constexpr float kMargin = 1e-3f;

  struct Point {
    float x, y, square;
  };

  // -1 outside the map.
  static int CellOf(float value) {
    if (!(std::fabs(value) < kReach)) return -1;
    return std::min(kCells - 1, static_cast<int>((value + kReach) / kCellWidth));
  }

  uint8_t Best(float x, float y, const std::vector<uint8_t>& candidates) const {
    uint8_t best = candidates.front();
    float highest = -INFINITY;
    for (const uint8_t candidate : candidates) {
      const Point& point = points_[candidate];
      const float score = 2 * x * point.x + 2 * y * point.y - point.square;
      if (score > highest) {
        highest = score;
        best = candidate;
      }
    }
    return best;
  }

  void MapPlane() {
    cells_.resize(kCells * kCells);
    for (int row = 0; row < kCells; ++row) {
      for (int column = 0; column < kCells; ++column) {
        MapCell(column * kCellWidth - kReach, row * kCellWidth - kReach,
                cells_[row * kCells + column]);
      }
    }
  }

  // Points that are nearest to somewhere in the cell whose lower corner is (left, low): no further
  // from the cell's nearest place than another point is from its furthest.
  void MapCell(float left, float low, std::vector<uint8_t>& cell) const {
    const auto nearest = [](float from, float to) {
      return std::max({from - to, to - from - kCellWidth, 0.0f});
    };
    const auto furthest = [](float from, float to) {
      return std::max(std::fabs(to - from), std::fabs(to - from - kCellWidth));
    };
    float bound = INFINITY;
    for (const Point& point : points_) {
      bound = std::min(bound, Square(furthest(left, point.x)) + Square(furthest(low, point.y)));
    }
    for (size_t i = 0; i < points_.size(); ++i) {
      const float distance =
          Square(nearest(left, points_[i].x)) + Square(nearest(low, points_[i].y));
      if (distance <= bound + kMargin) cell.push_back(static_cast<uint8_t>(i));
    }
  }

  static float Square(float value) { return value * value; }

  int dimensions_;
  std::vector<Point> points_;
  std::vector<uint8_t> all_;
  std::vector<std::vector<uint8_t>> cells_;
};

// Rotates a block and divides it by its Euclidean norm; the result is the norm over `root`, what is
// stored. Blocks whose squares overflow float32 are made smaller first.
float Normalize(std::vector<float>& block, float root) {
  constexpr float kSmaller = 0x1p-70f;
  float norm = TorchNorm(block);
  float factor = 1;
  if (!std::isfinite(norm)) {
    for (float& value : block) value *= kSmaller;
    factor = 1 / kSmaller;
    norm = TorchNorm(block);
  }
  if (norm == 0) return 0;
  HadamardTransform(block.data(), static_cast<int64_t>(block.size()));
  for (float& value : block) value /= norm;
  return norm / root * factor;
}

absl::Status CheckSpec(const TensorView& weight, const RotatedGridSpec& spec) {
  const int64_t size = spec.hadamard_size;
  const bool power = size > 0 && std::has_single_bit(static_cast<uint64_t>(size));
  if (power && weight.shape[1] % size == 0 && spec.group_size > 0 && size % spec.group_size == 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("hadamard_size ", size, " with group_size ",
                                                 spec.group_size, " does not fit ", weight.shape[1],
                                                 " columns"));
}

}  // namespace

absl::StatusOr<QuantizedTensor> QuantizeRotatedGrid(const TensorView& weight,
                                                    const RotatedGridSpec& spec,
                                                    const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  RETURN_IF_ERROR(CheckSpec(weight, spec));
  const NearestPoint nearest(spec.grid, spec.dimensions);
  const size_t points = spec.grid.size() / spec.dimensions;
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  out.dequantized_dtype = weight.dtype;
  out.scale_dtype = weight.dtype;
  out.grid.kind = spec.dimensions == 1 ? Grid::Kind::kTable : Grid::Kind::kCodebook;
  out.grid.bits = std::countr_zero(points);
  out.grid.vector_length = spec.dimensions;
  for (const float value : spec.grid) out.grid.table.push_back(RoundTo(weight.dtype, value));
  out.block = {.rows = 1, .cols = spec.group_size};
  out.input.hadamard_size = static_cast<int>(spec.hadamard_size);
  out.codes.resize(static_cast<size_t>(out.rows * out.cols / spec.dimensions));
  out.scale.resize(static_cast<size_t>(out.rows * out.cols / spec.group_size));
  const float root = static_cast<float>(std::sqrt(static_cast<double>(spec.hadamard_size)));
  const int64_t size = spec.hadamard_size;
  const auto quantize_row = [&](int64_t row) {
    std::vector<float> block(static_cast<size_t>(size));
    for (int64_t first = row * out.cols; first < (row + 1) * out.cols; first += size) {
      LoadFloats(weight, first, size, block.data());
      const float scale = Normalize(block, root);
      std::fill_n(out.scale.begin() + first / spec.group_size, size / spec.group_size,
                  RoundTo(weight.dtype, scale));
      if (scale == 0) continue;
      uint8_t* codes = out.codes.data() + first / spec.dimensions;
      for (int64_t i = 0; i < size; i += spec.dimensions) *codes++ = nearest.Find(&block[i]);
    }
  };
  RETURN_IF_ERROR(ParallelForUnlessStopped(out.rows, stopped, quantize_row));
  return out;
}

}  // namespace quantd

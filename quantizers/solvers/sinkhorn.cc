#include "quantizers/solvers/sinkhorn.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "quantizers/solvers/block_walk.h"
#include "quantizers/solvers/pieces.h"
#include "quantizers/solvers/rounding.h"

namespace quantd {
namespace {

constexpr int64_t kSmallestTile = 16;
constexpr int kRounds = 16;
constexpr float kLeastDeviation = 1e-3f, kMostDeviation = 1e3f;
constexpr float kLeastStep = 0.7f, kMostStep = 2.0f;  // of a factor in one round
constexpr float kLeastLog = -0.3f, kMostLog = 10.0f;  // of a factor in all
constexpr double kHeavyTails = 5;  // with more kurtosis than this, upstream scales nothing

// The float16 that upstream works on; its largest where that would be infinite.
float Half(float value) {
  return InFloat16::Round(std::clamp(value, -InFloat16::kMax, InFloat16::kMax));
}

// e^x for x from -1 to 11: an eighth-degree remainder is below 2^-53 after dividing by 2^k.
float Exp(float x) {
  constexpr double kLn2 = 0.693147180559945309417;
  const double steps = std::nearbyint(x / kLn2);
  const double rest = x - steps * kLn2;  // within 0.35
  double sum = 1;
  for (int i = 16; i > 0; --i) sum = 1 + sum * rest / i;
  const auto bits = static_cast<uint64_t>(1023 + static_cast<int64_t>(steps)) << 52;
  return static_cast<float>(sum * std::bit_cast<double>(bits));
}

// ln(x) for x from 0.7 to 2, by the series of atanh.
float Log(float x) {
  const double z = (x - 1.0) / (x + 1.0);  // within 1/3
  double sum = 0;
  for (int i = 37; i > 0; i -= 2) sum = sum * z * z + 1.0 / i;
  return static_cast<float>(2 * z * sum);
}

// Standard deviations of rows and columns, of count - 1.
struct Deviations {
  std::vector<float> rows, columns;

  float Least() const {
    return std::min(*std::min_element(rows.begin(), rows.end()),
                    *std::min_element(columns.begin(), columns.end()));
  }
  float Imbalance() const {
    const float most = std::max(*std::max_element(rows.begin(), rows.end()),
                                *std::max_element(columns.begin(), columns.end()));
    return most / std::max(Least(), 1e-12f);
  }
};

float Clamped(float deviation) { return std::clamp(deviation, kLeastDeviation, kMostDeviation); }

// A tile: all rows of some columns, and what its rows and columns are divided by.
class Tile {
 public:
  Tile(const TensorView& weight, int64_t first, int64_t width)
      : rows_(weight.shape[0]), width_(width), values_(static_cast<size_t>(rows_ * width)) {
    for (int64_t row = 0; row < rows_; ++row) {
      float* line = values_.data() + row * width;
      LoadFloats(weight, row * weight.shape[1] + first, width, line);
      for (int64_t c = 0; c < width; ++c) line[c] = Half(line[c]);
    }
    columns_.assign(static_cast<size_t>(width), 1.0f);
    by_row_.assign(static_cast<size_t>(rows_), 1.0f);
  }

  // Finds the factors of the round with the least imbalance, of kRounds.
  void Balance() {
    std::vector<float> log_columns(columns_.size()), log_rows(by_row_.size());
    std::vector<float> columns = columns_, rows = by_row_;
    Deviations deviations = Measure(columns, rows);
    float least = std::numeric_limits<float>::infinity();
    for (float& value : deviations.rows) value = Clamped(value);
    for (float& value : deviations.columns) value = Clamped(value);
    const float target = deviations.Least() + 1e-6f;
    const auto step = [target](float deviation, float log) {
      const float factor = std::clamp(Clamped(deviation) / target, kLeastStep, kMostStep);
      return std::clamp(log + Log(factor), kLeastLog, kMostLog);
    };
    for (int round = 0; round < kRounds; ++round) {
      deviations = Measure(columns, rows);
      const float imbalance = deviations.Imbalance();
      if (imbalance > least) return;  // rising: upstream's factors stay as they are from here
      least = imbalance;
      columns_ = columns;
      by_row_ = rows;
      for (size_t c = 0; c < columns.size(); ++c) {
        log_columns[c] = step(deviations.columns[c], log_columns[c]);
        columns[c] = Exp(log_columns[c]);
      }
      for (size_t r = 0; r < rows.size(); ++r) {
        log_rows[r] = step(deviations.rows[r], log_rows[r]);
        rows[r] = Exp(log_rows[r]);
      }
    }
  }

  const std::vector<float>& columns() const { return columns_; }
  float row_factor(int64_t row) const { return by_row_[static_cast<size_t>(row)]; }

  // A row after scaling.
  void Scaled(int64_t row, float* out) const { Scaled(columns_, by_row_, row, out); }

  // Back to factors of 1, with the roundings of going there and back.
  void Undo() {
    std::vector<float> line(static_cast<size_t>(width_));
    for (int64_t row = 0; row < rows_; ++row) {
      Scaled(row, line.data());
      for (int64_t c = 0; c < width_; ++c) {
        values_[row * width_ + c] = line[c] * columns_[c] * by_row_[row];
      }
    }
    std::fill(columns_.begin(), columns_.end(), 1.0f);
    std::fill(by_row_.begin(), by_row_.end(), 1.0f);
  }

 private:
  void Scaled(const std::vector<float>& columns, const std::vector<float>& rows, int64_t row,
              float* out) const {
    const float* line = values_.data() + row * width_;
    for (int64_t c = 0; c < width_; ++c) out[c] = line[c] / columns[c] / rows[row];
  }

  Deviations Measure(const std::vector<float>& columns, const std::vector<float>& rows) const {
    std::vector<float> scaled(values_.size());
    std::vector<double> mean(columns.size()), square(columns.size());
    Deviations out;
    for (int64_t row = 0; row < rows_; ++row) {
      float* line = scaled.data() + row * width_;
      Scaled(columns, rows, row, line);
      double sum = 0, squares = 0;
      for (int64_t c = 0; c < width_; ++c) {
        sum += line[c];
        mean[c] += line[c];
      }
      sum /= static_cast<double>(width_);
      for (int64_t c = 0; c < width_; ++c) squares += (line[c] - sum) * (line[c] - sum);
      out.rows.push_back(static_cast<float>(std::sqrt(squares / static_cast<double>(width_ - 1))));
    }
    for (double& value : mean) value /= static_cast<double>(rows_);
    for (int64_t row = 0; row < rows_; ++row) {
      const float* line = scaled.data() + row * width_;
      for (int64_t c = 0; c < width_; ++c) square[c] += (line[c] - mean[c]) * (line[c] - mean[c]);
    }
    for (const double value : square) {
      out.columns.push_back(static_cast<float>(std::sqrt(value / static_cast<double>(rows_ - 1))));
    }
    return out;
  }

  int64_t rows_, width_;
  std::vector<float> values_;            // [rows, width]
  std::vector<float> columns_, by_row_;  // factors
};

double SumOf(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum;
}

// Whether upstream leaves the matrix unscaled. Only the comparison matters, so the sums may be in
// another order and precision than torch's.
bool HasHeavyTails(const TensorView& weight) {
  const int64_t rows = weight.shape[0], cols = weight.shape[1];
  std::vector<double> first(static_cast<size_t>(rows)), second = first, fourth = first;
  const auto each = [&](double mean, bool moments) {
    ParallelFor(rows, [&, mean, moments](int64_t row) {
      std::vector<float> line(static_cast<size_t>(cols));
      LoadFloats(weight, row * cols, cols, line.data());
      for (const float value : line) {
        const double centred = Half(value) - mean;
        if (!moments) first[row] += centred;
        second[row] += centred * centred;
        fourth[row] += centred * centred * centred * centred;
      }
    });
  };
  each(0, false);
  const auto count = static_cast<double>(rows * cols);
  const double mean = SumOf(first) / count;
  std::fill(second.begin(), second.end(), 0.0);
  std::fill(fourth.begin(), fourth.end(), 0.0);
  each(mean, true);
  const double variance = std::max(SumOf(second) / count, 1e-6);
  return SumOf(fourth) / count / (variance * variance) > kHeavyTails;
}

// Codes and float16 scale and zero point of one group of scaled values.
struct Group {
  float scale;
  float zero;
};

Group RoundGroup(const float* values, int64_t count, float most, uint8_t* codes) {
  const auto [low, high] = std::minmax_element(values, values + count);
  const float scale = std::max(*high - *low, 1e-4f) / most;
  const float zero = -std::nearbyint(*low / scale);
  for (int64_t c = 0; c < count; ++c) {
    const float step = std::nearbyint(values[c] / scale + zero);
    codes[c] = static_cast<uint8_t>(std::clamp(step, 0.0f, most));
  }
  return {scale, InFloat16::Round(zero)};
}

// Rounds `count` float16 values, `stride` apart, to 8 bits between their least and largest, in
// float16.
void RoundToBytes(const std::vector<float>& values, size_t first, size_t stride, size_t count,
                  std::vector<uint8_t>& codes, float* step, float* least) {
  *least = values[first];
  for (size_t i = 0; i < count; ++i) *least = std::min(*least, values[first + i * stride]);
  float range = 0;
  for (size_t i = 0; i < count; ++i) {
    range = std::max(range, InFloat16::Round(values[first + i * stride] - *least));
  }
  *step = InFloat16::Round(range / 255.0f);
  for (size_t i = 0; i < count; ++i) {
    const float above = InFloat16::Round(values[first + i * stride] - *least);
    const float code = above > 0 ? std::nearbyint(InFloat16::Round(above / *step)) : 0.0f;
    codes[first + i * stride] = static_cast<uint8_t>(std::min(code, 255.0f));
  }
}

void NestScales(const std::vector<float>& scale, const std::vector<float>& zero,
                QuantizedTensor* out) {
  NestedScales& nested = out->nested.emplace();
  const size_t blocks = scale.size(), columns = blocks / kSinqScaleRows;
  nested.scale_codes.resize(blocks);
  nested.offset_codes.resize(blocks);
  nested.super_scale.resize(columns);
  nested.super_offset.resize(columns);
  nested.scale_zero.resize(1);
  nested.offset_zero.resize(1);
  for (size_t c = 0; c < columns; ++c) {
    RoundToBytes(scale, c, columns, kSinqScaleRows, nested.scale_codes, &nested.super_scale[c],
                 &nested.super_offset[c]);
  }
  RoundToBytes(zero, 0, 1, blocks, nested.offset_codes, nested.scale_zero.data(),
               nested.offset_zero.data());
  FillSinqScales(out);
}

}  // namespace

int64_t SinqSpec::Tile(int64_t cols) const {
  int64_t tile = group_size;
  while (tile >= kSmallestTile && cols % tile != 0) tile /= 2;
  return tile >= kSmallestTile ? tile : 0;
}

absl::Status CheckSinqShape(const SinqSpec& spec, int64_t rows, int64_t cols) {
  const int64_t tile = spec.Tile(cols);
  if (tile == 0 || rows * cols % spec.group_size != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group_size ", spec.group_size, ", halved down to ", kSmallestTile, ", does not divide ",
        cols, " columns; take another or name the module in modules_to_not_convert"));
  }
  if (rows < 2 || rows * (cols / tile) % kSinqScaleRows != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(rows, " rows with ", cols / tile, " groups each do not fill ", kSinqScaleRows,
                     " rows of scales; name the module in modules_to_not_convert"));
  }
  return absl::OkStatus();
}

absl::StatusOr<QuantizedTensor> QuantizeSinq(const TensorView& weight, const SinqSpec& spec,
                                             const StopRequest& stopped) {
  RETURN_IF_ERROR(CheckWeight(weight));
  QuantizedTensor out;
  out.rows = weight.shape[0];
  out.cols = weight.shape[1];
  RETURN_IF_ERROR(CheckSinqShape(spec, out.rows, out.cols));
  const int64_t width = spec.Tile(out.cols), tiles = out.cols / width;
  out.grid = UniformGrid(spec.bits, /*is_signed=*/false);
  out.block = {.rows = 1, .cols = width};
  out.scale_dtype = DType::kF16;
  out.dequantized_dtype = weight.dtype;
  out.rounds_each_step = weight.dtype == DType::kF16;
  out.codes.resize(static_cast<size_t>(out.rows * out.cols));
  out.column_scale.resize(static_cast<size_t>(out.cols));
  std::vector<float> scale(static_cast<size_t>(out.rows * tiles)), zero = scale;
  const bool keeps = HasHeavyTails(weight);
  const auto most = static_cast<float>((1 << spec.bits) - 1);
  std::atomic<bool> finite{true};
  const auto solve_tile = [&](int64_t t) {
    Tile tile(weight, t * width, width);
    tile.Balance();
    if (keeps) tile.Undo();
    for (int64_t c = 0; c < width; ++c) {
      out.column_scale[t * width + c] = InFloat16::Round(tile.columns()[c]);
    }
    std::vector<float> line(static_cast<size_t>(width));
    for (int64_t row = 0; row < out.rows; ++row) {
      tile.Scaled(row, line.data());
      const Group group =
          RoundGroup(line.data(), width, most, out.codes.data() + row * out.cols + t * width);
      const float stored = Half(group.scale * tile.row_factor(row));
      scale[row * tiles + t] = stored;
      zero[row * tiles + t] = group.zero;
      if (!std::isfinite(group.zero)) finite = false;
    }
  };
  RETURN_IF_ERROR(ParallelForUnlessStopped(tiles, stopped, solve_tile));
  if (!finite) {
    return absl::InvalidArgumentError(
        "a group's zero point is beyond float16 (values far from 0 that are nearly the same); name "
        "the module in modules_to_not_convert");
  }
  NestScales(scale, zero, &out);
  return out;
}

void FillSinqScales(QuantizedTensor* tensor) {
  const NestedScales& nested = *tensor->nested;
  const size_t columns = nested.super_scale.size();
  tensor->scale.clear();
  tensor->zero_point.clear();
  const auto value = [](uint8_t code, float step, float offset) {
    return InFloat16::Round(InFloat16::Round(static_cast<float>(code) * step) + offset);
  };
  for (size_t b = 0; b < nested.scale_codes.size(); ++b) {
    const size_t c = b % columns;
    tensor->scale.push_back(
        value(nested.scale_codes[b], nested.super_scale[c], nested.super_offset[c]));
    tensor->zero_point.push_back(
        value(nested.offset_codes[b], nested.scale_zero[0], nested.offset_zero[0]));
  }
}

}  // namespace quantd

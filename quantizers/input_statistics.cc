#include "quantizers/input_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "core/float_types.h"
#include "core/parallel.h"
#include "kernels/matrix_product.h"

namespace quantd {
namespace {

// Products are summed over slices of this many tokens, and the slices then; the cut is part of the
// result, so it is by token number and not by call.
constexpr int64_t kSlice = 256;
constexpr int64_t kTile = 96;        // columns and rows of the gram matrix that a task fills
constexpr int64_t kColumnTask = 64;  // columns whose sums a task adds to

struct TilePosition {
  int64_t row, column;
};

// Tile `index` of the upper triangle of a square of `side` tiles.
TilePosition UpperTile(int64_t index, int64_t side) {
  int64_t row = 0;
  while (index >= side - row) index -= side - row++;
  return {row, row + index};
}

// The first value that is NaN or infinite, or -1.
int64_t FirstNonFinite(std::span<const float> values) {
  constexpr size_t kChunk = 1024;
  for (size_t first = 0; first < values.size(); first += kChunk) {
    const std::span<const float> chunk =
        values.subspan(first, std::min(kChunk, values.size() - first));
    int beyond = 0;
    for (const float v : chunk) beyond |= !(std::fabs(v) <= std::numeric_limits<float>::max());
    if (beyond == 0) continue;
    for (size_t i = 0; i < chunk.size(); ++i) {
      if (!std::isfinite(chunk[i])) return static_cast<int64_t>(first + i);
    }
  }
  return -1;
}

// However a device fails, the sums that it held are gone.
absl::Status Lost(const absl::Status& status) {
  return status.ok() ? status : absl::UnavailableError(status.message());
}

}  // namespace

InputStatistics::InputStatistics(int64_t cols, const InputNeeds& needs, int64_t tokens,
                                 ProductDevice* device)
    : cols_(cols), needs_(needs), tokens_(tokens), device_(needs.gram ? device : nullptr) {
  const auto size = static_cast<size_t>(cols);
  if (needs.importance) squares_.resize(size);
  if (needs.mean_magnitude) magnitudes_.resize(size);
  if (needs.range) {
    minimum_.assign(size, std::numeric_limits<float>::infinity());
    maximum_.assign(size, -std::numeric_limits<float>::infinity());
  }
  if (device_ != nullptr) ReserveOnDevice();
  if (needs.gram) gram_.resize(size * size);
  if (needs.sample_rows > 0) {
    samples_.reserve(static_cast<size_t>(std::min(tokens, needs.sample_rows) * cols));
  }
}

uint64_t InputStatistics::Bytes(int64_t cols, const InputNeeds& needs, int64_t tokens) {
  int64_t floats = 8 * cols + std::min(needs.sample_rows, tokens) * cols;
  if (needs.gram) floats += cols * cols + kSlice * cols;
  return static_cast<uint64_t>(floats) * sizeof(float);
}

absl::Status InputStatistics::Add(std::span<const float> rows) {
  if (const int64_t index = FirstNonFinite(rows); index >= 0) {
    return absl::InvalidArgumentError(absl::StrCat("the input of token ", seen_ + index / cols_,
                                                   ", channel ", index % cols_, ", is ",
                                                   rows[static_cast<size_t>(index)]));
  }
  return AddFinite(rows);
}

absl::Status InputStatistics::AddFinite(std::span<const float> rows) {
  AddColumnSums(rows);
  AddSamples(rows);
  if (needs_.extremes && !rows.empty()) {
    const auto [least, greatest] = std::minmax_element(rows.begin(), rows.end());
    if (!within_sequence_) {
      least_.push_back(*least);
      greatest_.push_back(*greatest);
    }
    within_sequence_ = true;
    least_.back() = std::min(least_.back(), *least);
    greatest_.back() = std::max(greatest_.back(), *greatest);
  }
  seen_ += static_cast<int64_t>(rows.size()) / cols_;
  const auto slice = static_cast<size_t>(kSlice * cols_);
  while (needs_.gram && !rows.empty()) {
    const size_t count = std::min(rows.size(), slice - pending_.size());
    if (count == slice) {
      RETURN_IF_ERROR(AddGram(rows.first(slice)));
    } else {
      pending_.insert(pending_.end(), rows.begin(), rows.begin() + static_cast<ptrdiff_t>(count));
      if (pending_.size() == slice) {
        RETURN_IF_ERROR(AddGram(pending_));
        pending_.clear();
      }
    }
    rows = rows.subspan(count);
  }
  return absl::OkStatus();
}

void InputStatistics::EndSequence() { within_sequence_ = false; }

void InputStatistics::AddColumnSums(std::span<const float> rows) {
  if (!needs_.importance && !needs_.mean_magnitude && !needs_.range) return;
  const int64_t count = static_cast<int64_t>(rows.size()) / cols_;
  ParallelFor((cols_ + kColumnTask - 1) / kColumnTask, [&](int64_t task) {
    const int64_t first = task * kColumnTask, end = std::min(cols_, first + kColumnTask);
    for (int64_t r = 0; r < count; ++r) {
      const float* row = rows.data() + r * cols_;
      for (int64_t c = first; c < end; ++c) {
        if (needs_.importance) squares_[c] += static_cast<double>(row[c]) * row[c];
        if (needs_.mean_magnitude) magnitudes_[c] += std::fabs(row[c]);
        if (needs_.range) {
          minimum_[c] = std::min(minimum_[c], row[c]);
          maximum_[c] = std::max(maximum_[c], row[c]);
        }
      }
    }
  });
}

// Sample i of n is row floor(i * tokens / n).
void InputStatistics::AddSamples(std::span<const float> rows) {
  const int64_t wanted = std::min(tokens_, needs_.sample_rows);
  const int64_t count = static_cast<int64_t>(rows.size()) / cols_;
  while (wanted > 0) {
    const int64_t i = static_cast<int64_t>(samples_.size()) / cols_;
    const auto row = static_cast<int64_t>(static_cast<__int128>(i) * tokens_ / wanted) - seen_;
    if (i >= wanted || row >= count) return;
    const float* from = rows.data() + row * cols_;
    samples_.insert(samples_.end(), from, from + cols_);
  }
}

void InputStatistics::ReserveOnDevice() {
  absl::Status status = device_->Zero(cols_, cols_, sums_);
  if (status.ok()) status = device_->Zero(std::min(tokens_, kSlice), cols_, slice_);
  if (status.ok()) return;
  device_->NoteFailure(status);
  device_ = nullptr;
  sums_.reset();
  slice_.reset();
}

absl::Status InputStatistics::AddGram(std::span<const float> rows) {
  if (device_ == nullptr) {
    AddGramHere(rows);
    return absl::OkStatus();
  }
  const int64_t tokens = static_cast<int64_t>(rows.size()) / cols_;
  absl::Status status = device_->Upload({rows.data(), cols_, 1}, tokens, cols_, slice_);
  if (!status.ok()) return Lost(status);
  const DeviceProduct product = {
      .a = slice_.get(), .b = slice_.get(), .a_transposed = true, .upper_only = true};
  return Lost(device_->AddProduct(product, *sums_));
}

void InputStatistics::AddGramHere(std::span<const float> rows) {
  const int64_t tokens = static_cast<int64_t>(rows.size()) / cols_;
  const int64_t side = (cols_ + kTile - 1) / kTile;
  const auto fill = [&](int64_t index) {
    const TilePosition tile = UpperTile(index, side);
    const int64_t i = tile.row * kTile, j = tile.column * kTile;
    AddMatrixProduct(std::min(kTile, cols_ - i), std::min(kTile, cols_ - j), tokens,
                     {rows.data() + i, 1, cols_}, {rows.data() + j, cols_, 1},
                     gram_.data() + i * cols_ + j, cols_);
  };
  ParallelFor(side * (side + 1) / 2, fill, static_cast<double>(kTile * kTile * tokens) / 2e10);
}

absl::Status InputStatistics::Finish() {
  if (!pending_.empty()) RETURN_IF_ERROR(AddGram(pending_));
  pending_.clear();
  if (device_ != nullptr) {
    RETURN_IF_ERROR(Lost(device_->Download(*sums_, gram_.data(), cols_)));
    sums_.reset();
    slice_.reset();
  }
  const auto mean = [this](const std::vector<double>& sums, std::vector<float>& means) {
    for (const double sum : sums) means.push_back(static_cast<float>(sum / seen_));
  };
  mean(squares_, importance_);
  mean(magnitudes_, mean_magnitude_);
  if (!needs_.gram) return absl::OkStatus();
  for (int64_t i = 0; i < cols_; ++i) {
    if (!std::isfinite(gram_[i * cols_ + i])) {
      return absl::InvalidArgumentError(absl::StrCat("the inputs of channel ", i,
                                                     " are so large that their squares add up to ",
                                                     gram_[i * cols_ + i], " in float32"));
    }
  }
  Mirror();
  return absl::OkStatus();
}

// The lower triangle from the upper one, in squares that fit the cache.
void InputStatistics::Mirror() {
  constexpr int64_t kSquare = 32;
  ParallelFor((cols_ + kSquare - 1) / kSquare, [this](int64_t task) {
    const int64_t top = task * kSquare, bottom = std::min(cols_, top + kSquare);
    for (int64_t left = 0; left < bottom; left += kSquare) {
      for (int64_t i = top; i < bottom; ++i) {
        const int64_t right = std::min(i, left + kSquare);
        for (int64_t j = left; j < right; ++j) gram_[i * cols_ + j] = gram_[j * cols_ + i];
      }
    }
  });
}

InputStats InputStatistics::View(SolverControl* control) const {
  return {.importance = importance_,
          .mean_magnitude = mean_magnitude_,
          .minimum = minimum_,
          .maximum = maximum_,
          .least = least_,
          .greatest = greatest_,
          .gram = gram_,
          .samples = samples_,
          .tokens = seen_,
          .control = control};
}

absl::StatusOr<InputStatistics> StatisticsOf(const TensorView& inputs, int64_t cols,
                                             const InputNeeds& needs) {
  if (inputs.shape.size() < 2 || !InfoOf(inputs.dtype).is_float || inputs.shape.back() != cols ||
      inputs.elements() == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a float tensor [tokens, ", cols, "], found ",
                     InfoOf(inputs.dtype).safetensors_name, " ", ToString(inputs.shape)));
  }
  const int64_t tokens = inputs.elements() / cols;
  const int64_t length = inputs.shape.size() > 2 ? inputs.shape[inputs.shape.size() - 2] : tokens;
  InputStatistics statistics(cols, needs, tokens);
  std::vector<float> rows;
  for (int64_t first = 0; first < tokens;) {
    const int64_t count = std::min(kSlice, length - first % length);
    rows.resize(static_cast<size_t>(count * cols));
    LoadFloats(inputs, first * cols, count * cols, rows.data());
    RETURN_IF_ERROR(statistics.Add(rows));
    first += count;
    if (first % length == 0) statistics.EndSequence();
  }
  RETURN_IF_ERROR(statistics.Finish());
  return statistics;
}

}  // namespace quantd

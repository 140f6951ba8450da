#include "kernels/cpu/activations.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/cpu/pack.h"

namespace quantd::cpu {
namespace {

int64_t BytesPerColumn(XFormat format) {
  switch (format) {
    case XFormat::kInt16:
      return 2;
    default:
      return 4;
  }
}

// Columns of a pair inside 8 columns, as XFormat describes.
std::array<uint8_t, 8> PairOrder(XFormat format) {
  if (format == XFormat::kBf16Quads) return {0, 2, 1, 3, 4, 6, 5, 7};
  return {0, 1, 2, 3, 4, 5, 6, 7};
}

template <class T>
void GrowTo(std::vector<T>& v, int64_t size) {
  if (static_cast<int64_t>(v.size()) < size) v.resize(static_cast<size_t>(size));
}

// The row with its groups padded, in `scratch` where that changes anything.
const float* PadColumns(const ColumnPlan& plan, const float* row, float* scratch) {
  if (plan.cols == plan.padded_cols()) return row;
  for (int64_t group = 0; group < plan.groups; ++group) {
    const int64_t first = group * plan.group;
    const int64_t count = std::min(plan.group, plan.cols - first);
    float* to = scratch + group * plan.padded;
    std::copy_n(row + first, count, to);
    std::fill(to + count, to + plan.padded, 0.0f);
  }
  return scratch;
}

}  // namespace

ActivationFormat FormatFor(const PackedMatrix& m, const KernelTable& kernels) {
  ActivationFormat f;
  f.columns = m.columns;
  f.tile = IsDense(m.element) ? kernels.dense_tokens : kernels.code_tokens;
  switch (m.element) {
    case Element::kF32:
    case Element::kF16:
    case Element::kLut4:
      f.format = XFormat::kF32;
      return f;
    case Element::kBf16:
      f.format = kernels.bf16_format;
      return f;
    case Element::kFp8:
      f.format = kernels.fp8_format;
      return f;
    case Element::kU4:
    case Element::kU8:
      f.format = XFormat::kInt16;
      f.zero_mode = m.zero_mode;
      f.zero = m.zero;
      f.tile = kernels.int_tokens;
  }
  return f;
}

int64_t PreparedActivations::ScratchFloats(const ColumnPlan& columns) {
  // The padded row, then its converted form and the scales and sums of its blocks.
  return columns.padded_cols() * 2 + 2 * (columns.padded_cols() / columns.block + 16);
}

void PreparedActivations::Reset(const ActivationFormat& format, int64_t tokens) {
  format_ = format;
  tokens_ = tokens;
  tiles_ = TileCount(tokens, format.tile);
  GrowTo(divisor_, tokens);
  const int64_t cols = format.columns.padded_cols();
  GrowTo(data_, tokens * cols * BytesPerColumn(format.format));
  if (format.format != XFormat::kInt16) return;
  blocks_ = cols / format.columns.block;
  GrowTo(scale_, tokens * blocks_);
  if (format.zero_mode == ZeroMode::kConstant) {
    GrowTo(start_, tokens * blocks_);
  } else {
    GrowTo(sum_, tokens * blocks_);
  }
}

void PreparedActivations::Store(const KernelTable& kernels, int64_t token, const float* row,
                                float* scratch) {
  const float* padded = PadColumns(format_.columns, row, scratch);
  float* rest = scratch + format_.columns.padded_cols();
  if (format_.format == XFormat::kInt16) {
    StoreInt16(kernels, token, padded, rest);
  } else {
    StoreFloats(kernels, token, padded, rest);
  }
}

void PreparedActivations::StoreInt16(const KernelTable& kernels, int64_t token, const float* row,
                                     float* scratch) {
  const int64_t cols = format_.columns.padded_cols();
  auto* q = reinterpret_cast<int8_t*>(scratch);
  float* scale = scratch + cols;
  auto* sum = reinterpret_cast<int32_t*>(scale + blocks_);
  kernels.quantize(row, cols, format_.columns.block, q, scale, sum);

  const TokenTile tile = TileOf(token);
  const int64_t lane = token - tile.first;
  std::byte* data = data_.data() + tile.first * cols * 2 + lane * kQuadBytes;
  for (int64_t quad = 0; quad < cols / 4; ++quad) {
    std::memcpy(data + quad * tile.count * kQuadBytes, q + quad * kQuadBytes, kQuadBytes);
  }
  for (int64_t b = 0; b < blocks_; ++b) {
    const int64_t at = tile.first * blocks_ + b * tile.count + lane;
    scale_[at] = scale[b];
    if (format_.zero_mode == ZeroMode::kConstant) {
      start_[at] = -format_.zero * sum[b];
    } else {
      const bool scaled = format_.zero_mode == ZeroMode::kOffset;
      sum_[at] = static_cast<float>(sum[b]) * (scaled ? scale[b] : 1.0f);
    }
  }
}

void PreparedActivations::StoreFloats(const KernelTable& kernels, int64_t token, const float* row,
                                      float* scratch) {
  const int64_t cols = format_.columns.padded_cols();
  const TokenTile tile = TileOf(token);
  const int64_t lane = token - tile.first;
  if (format_.format == XFormat::kF32) {
    float* data = reinterpret_cast<float*>(data_.data()) + tile.first * cols + lane;
    for (int64_t c = 0; c < cols; ++c) data[c * tile.count] = row[c];
    return;
  }
  auto* first = reinterpret_cast<uint16_t*>(scratch);
  uint16_t* second = first + cols;
  kernels.split_bf16(row, cols, first, second);
  auto* data = reinterpret_cast<uint16_t*>(data_.data()) + (tile.first * cols + lane * 2) * 2;
  const std::array<uint8_t, 8> order = PairOrder(format_.format);
  for (int64_t c = 0; c < cols; c += 2) {
    const int64_t left = c / 8 * 8 + order[c % 8], right = c / 8 * 8 + order[c % 8 + 1];
    uint16_t* pair = data + c * tile.count * 2;
    pair[0] = first[left];
    pair[1] = first[right];
    pair[2] = second[left];
    pair[3] = second[right];
  }
}

void PreparedActivations::Point(int64_t index, IntTile& tile) const {
  const TokenTile tokens = this->tile(index);
  tile.tokens = tokens.count;
  tile.x = reinterpret_cast<const int8_t*>(data_.data()) +
           tokens.first * format_.columns.padded_cols() * BytesPerColumn(format_.format);
  tile.x_scale = scale_.data() + tokens.first * blocks_;
  tile.x_start = start_.data() + tokens.first * blocks_;
  tile.x_sum = sum_.data() + tokens.first * blocks_;
}

void PreparedActivations::Point(int64_t index, FloatTile& tile) const {
  const TokenTile tokens = this->tile(index);
  tile.tokens = tokens.count;
  tile.x =
      data_.data() + tokens.first * format_.columns.padded_cols() * BytesPerColumn(format_.format);
}

}  // namespace quantd::cpu

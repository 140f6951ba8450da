#include "kernels/opencl/weights.h"

#include "absl/strings/str_cat.h"

namespace quantd::opencl {
namespace {

absl::StatusOr<uint64_t> FloatBytes(std::initializer_list<int64_t> dimensions) {
  uint64_t bytes = sizeof(float);
  for (const int64_t dimension : dimensions) {
    if (dimension < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(dimension), &bytes)) {
      return absl::InvalidArgumentError(
          absl::StrCat("an array dimension of ", dimension, " is out of range"));
    }
  }
  return bytes;
}

// Whether `next` continues the matrix that starts with `first` and has `rows` rows so far.
bool Continues(const PartImage& first, int64_t rows, const PartImage& next) {
  return next.format == first.format && rows % first.format.tile_rows == 0;
}

// Concatenates one field of `parts` in device memory.
template <class Field>
absl::StatusOr<Buffer> Upload(std::span<const PartImage> parts, Field field, Queue& queue) {
  uint64_t bytes = 0;
  for (const PartImage& part : parts) bytes += field(part).size();
  ASSIGN_OR_RETURN(Buffer buffer, queue.Allocate(bytes, "a weight matrix"));
  uint64_t offset = 0;
  for (const PartImage& part : parts) {
    RETURN_IF_ERROR(queue.Write(buffer, offset, field(part)));
    offset += field(part).size();
  }
  return buffer;
}

using Bytes = std::span<const std::byte>;

absl::StatusOr<Segment> CreateSegment(std::span<const PartImage> parts, Queue& queue) {
  const PartImage& front = parts.front();
  Segment segment;
  segment.format = front.format;
  segment.defines = DefinesOf(front.format);
  segment.chunks_per_row = front.chunks_per_row;
  segment.blocks_per_row = front.blocks_per_row;
  for (const PartImage& part : parts) segment.rows += part.rows;
  ASSIGN_OR_RETURN(segment.chunks, Upload(
                                       parts, [](const PartImage& p) { return p.chunks; }, queue));
  ASSIGN_OR_RETURN(segment.scales,
                   Upload(
                       parts, [](const PartImage& p) { return Bytes(p.scales); }, queue));
  ASSIGN_OR_RETURN(segment.zeros,
                   Upload(
                       parts, [](const PartImage& p) { return Bytes(p.zeros); }, queue));
  const auto first = parts.first(1);
  ASSIGN_OR_RETURN(
      segment.table,
      Upload(
          first, [](const PartImage& p) { return std::as_bytes(std::span(p.format.table)); },
          queue));
  segment.format.table.clear();
  return segment;
}

}  // namespace

absl::StatusOr<std::unique_ptr<ClWeight>> ClWeight::Create(std::span<const PartImage> parts,
                                                           Queue& queue) {
  auto weight = std::make_unique<ClWeight>();
  weight->layout_ = LayoutOf(parts.front().format);
  weight->cols_ = parts.front().cols;
  for (size_t begin = 0; begin < parts.size();) {
    int64_t rows = parts[begin].rows;
    size_t end = begin + 1;
    while (end < parts.size() && Continues(parts[begin], rows, parts[end])) {
      rows += parts[end++].rows;
    }
    ASSIGN_OR_RETURN(Segment segment, CreateSegment(parts.subspan(begin, end - begin), queue));
    segment.first_row = weight->rows_;
    weight->rows_ += rows;
    weight->segments_.push_back(std::move(segment));
    begin = end;
  }
  return weight;
}

uint64_t ClWeight::bytes() const {
  uint64_t bytes = 0;
  for (const Segment& s : segments_) {
    bytes += s.chunks.bytes() + s.scales.bytes() + s.zeros.bytes() + s.table.bytes();
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<ClArray>> ClArray::Create(int64_t rows, int64_t cols, Queue& queue) {
  ASSIGN_OR_RETURN(const uint64_t bytes, FloatBytes({rows, cols}));
  auto array = std::make_unique<ClArray>();
  array->rows_ = rows;
  array->cols_ = cols;
  ASSIGN_OR_RETURN(array->buffer_,
                   queue.Allocate(bytes, absl::StrCat("an array of ", rows, " x ", cols)));
  return array;
}

absl::StatusOr<std::unique_ptr<ClOrder>> ClOrder::Create(std::span<const int32_t> order,
                                                         Queue& queue) {
  for (const int32_t col : order) {
    if (col >= 0 && static_cast<size_t>(col) < order.size()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("an order of ", order.size(), " columns has a column ", col));
  }
  auto made = std::make_unique<ClOrder>();
  made->cols_ = static_cast<int64_t>(order.size());
  ASSIGN_OR_RETURN(made->buffer_, queue.Allocate(order.size_bytes(), "an order of columns"));
  RETURN_IF_ERROR(queue.Write(made->buffer_, 0, std::as_bytes(order)));
  return made;
}

absl::StatusOr<std::unique_ptr<ClKvCache>> ClKvCache::Create(const KvShape& shape, Queue& queue) {
  ASSIGN_OR_RETURN(const uint64_t bytes,
                   FloatBytes({shape.kv_heads, shape.head_dim, PaddedCapacity(shape.capacity)}));
  auto cache = std::make_unique<ClKvCache>();
  cache->shape_ = shape;
  for (int layer = 0; layer < shape.layers; ++layer) {
    const std::string what = absl::StrCat("the key-value cache of layer ", layer);
    ASSIGN_OR_RETURN(Buffer keys, queue.Allocate(bytes, what));
    ASSIGN_OR_RETURN(Buffer values, queue.Allocate(bytes, what));
    cache->layers_.emplace_back(std::move(keys), std::move(values));
  }
  return cache;
}

uint64_t ClKvCache::bytes() const {
  uint64_t bytes = 0;
  for (const auto& [keys, values] : layers_) bytes += keys.bytes() + values.bytes();
  return bytes;
}

}  // namespace quantd::opencl

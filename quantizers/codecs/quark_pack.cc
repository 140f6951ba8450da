#include "quantizers/codecs/quark_pack.h"

#include <cstring>

#include "core/float_types.h"

namespace quantd {
namespace {

// Lane i of a word holds column kAwqOrder[i].
constexpr int kAwqOrder[] = {0, 2, 4, 6, 1, 3, 5, 7};

int64_t RowsOf(const Shape& shape) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

int ColumnOf(bool reorder, int lane) { return reorder ? kAwqOrder[lane] : lane; }

// Calls body(index of the value, item, bit position in it) for every packed value.
template <class Body>
void ForEachCode(const QuarkSpec& spec, bool reorder, const Shape& shape, const Body& body) {
  const int64_t cols = shape.back();
  const int per_item = QuarkCodesPerItem(spec);
  const int64_t items = (cols + per_item - 1) / per_item;
  for (int64_t row = 0; row < RowsOf(shape); ++row) {
    for (int64_t item = 0; item < items; ++item) {
      for (int lane = 0; lane < per_item; ++lane) {
        const int column = spec.bits == 4 ? ColumnOf(reorder, lane) : lane;
        const int64_t index = item * per_item + column;
        if (index >= cols) continue;
        // uint2 has the first value in the high bits.
        const int shift = spec.bits == 2 ? 6 - 2 * lane : spec.bits * lane;
        body(row * cols + index, row * items + item, shift);
      }
    }
  }
}

bool IsBitPacked(const QuarkSpec& spec) { return QuarkCodesPerItem(spec) > 1; }

}  // namespace

int QuarkCodesPerItem(const QuarkSpec& spec) {
  if (spec.bits == 2) return spec.is_signed ? 1 : 4;
  return spec.bits == 3 || spec.bits == 4 ? 8 : 1;
}

int64_t QuarkPackedWidth(const QuarkSpec& spec, int64_t count) {
  const int per_item = QuarkCodesPerItem(spec);
  const int64_t items = (count + per_item - 1) / per_item;
  return spec.bits == 3 ? items * 3 : items;
}

Shape QuarkStoredShape(const QuarkSpec& spec, Shape shape) {
  if (!shape.empty()) shape.back() = QuarkPackedWidth(spec, shape.back());
  return shape;
}

Tensor PackQuark(const QuarkSpec& spec, bool reorder, const std::vector<int32_t>& values,
                 Shape shape) {
  Tensor stored = MakeTensor(spec.stored_dtype, QuarkStoredShape(spec, shape));
  const size_t size = SizeOf(stored.dtype);
  if (shape.empty() || !IsBitPacked(spec)) {
    for (size_t i = 0; i < values.size(); ++i) {
      std::memcpy(stored.bytes.data() + i * size, &values[i], size);
    }
    return stored;
  }
  const uint32_t mask = (1u << spec.bits) - 1;
  std::vector<uint32_t> items(static_cast<size_t>(
      RowsOf(shape) * ((shape.back() + QuarkCodesPerItem(spec) - 1) / QuarkCodesPerItem(spec))));
  ForEachCode(spec, reorder, shape, [&](int64_t index, int64_t item, int shift) {
    items[item] |= (static_cast<uint32_t>(values[index]) & mask) << shift;
  });
  const size_t bytes = spec.bits == 3 ? 3 : size;  // little-endian, low byte first
  for (size_t i = 0; i < items.size(); ++i) {
    std::memcpy(stored.bytes.data() + i * bytes, &items[i], bytes);
  }
  return stored;
}

std::vector<int32_t> UnpackQuark(const QuarkSpec& spec, bool reorder, const Tensor& stored,
                                 const Shape& shape) {
  std::vector<int32_t> values(static_cast<size_t>(NumElements(shape)));
  if (shape.empty() || !IsBitPacked(spec)) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<int32_t>(LoadFloat(stored, static_cast<int64_t>(i)));
    }
    return values;
  }
  const size_t bytes = spec.bits == 3 ? 3 : SizeOf(stored.dtype);
  const uint32_t mask = (1u << spec.bits) - 1;
  const int32_t sign = spec.is_signed ? 1 << (spec.bits - 1) : 0;
  ForEachCode(spec, reorder, shape, [&](int64_t index, int64_t item, int shift) {
    uint32_t word = 0;
    std::memcpy(&word, stored.bytes.data() + item * bytes, bytes);
    const int32_t code = static_cast<int32_t>((word >> shift) & mask);
    values[index] = (code ^ sign) - sign;  // two's complement of that many bits
  });
  return values;
}

}  // namespace quantd

#include "kernels/cpu/kv_cache.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace quantd::cpu {
namespace {

bool Possible(const KvShape& s) {
  constexpr int64_t kMost = int64_t{1} << 24;
  return s.layers > 0 && s.kv_heads > 0 && s.head_dim > 0 && s.head_dim <= kLargestHead &&
         s.capacity > 0 && s.capacity <= kMost &&
         static_cast<int64_t>(s.layers) * s.kv_heads <= kMost;
}

}  // namespace

KvLayer MakeKvLayer(bool half, int head_dim, int64_t tokens) {
  KvLayer layer;
  layer.half = half;
  layer.head_dim = head_dim;
  layer.value_stride = (head_dim + 15) / 16 * 16;
  layer.capacity = (tokens + 15) / 16 * 16;
  return layer;
}

void KvLayer::Store(const KernelTable& kernels, int head, int64_t position, const float* key,
                    const float* value) const {
  const int64_t first = position / 16 * head_dim * 16 + position % 16;
  std::byte* key_base = keys + head * head_key_bytes();
  std::byte* value_row =
      values + head * head_value_bytes() + position * value_stride * element_bytes();
  if (!half) {
    auto* to = reinterpret_cast<float*>(key_base);
    for (int d = 0; d < head_dim; ++d) to[first + d * 16] = key[d];
    std::memcpy(value_row, value, static_cast<size_t>(head_dim) * 4);
    return;
  }
  uint16_t narrow[kLargestHead];
  kernels.to_f16(key, head_dim, narrow);
  auto* to = reinterpret_cast<uint16_t*>(key_base);
  for (int d = 0; d < head_dim; ++d) to[first + d * 16] = narrow[d];
  kernels.to_f16(value, head_dim, reinterpret_cast<uint16_t*>(value_row));
}

absl::StatusOr<std::unique_ptr<CpuKvCache>> CpuKvCache::Create(const KvShape& shape) {
  if (!Possible(shape)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "impossible KV cache: ", shape.layers, " layers, ", shape.kv_heads, " heads of ",
        shape.head_dim, " (at most ", kLargestHead, "), ", shape.capacity, " tokens"));
  }
  const KvLayer geometry =
      MakeKvLayer(shape.compute == Compute::kFast, shape.head_dim, shape.capacity);
  const int64_t head_bytes = geometry.head_key_bytes() + geometry.head_value_bytes();
  int64_t layer_bytes = 0, bytes = 0;
  if (__builtin_mul_overflow(head_bytes, int64_t{shape.kv_heads}, &layer_bytes) ||
      __builtin_mul_overflow(layer_bytes, int64_t{shape.layers}, &bytes)) {
    return absl::ResourceExhaustedError("the KV cache would be larger than the address space");
  }
  ASSIGN_OR_RETURN(Buffer storage, Buffer::Allocate(static_cast<size_t>(bytes)));
  return std::unique_ptr<CpuKvCache>(
      new CpuKvCache(shape, std::move(storage), geometry, layer_bytes));
}

KvLayer CpuKvCache::layer(int index) {
  KvLayer layer = geometry_;
  layer.keys = storage_.data() + index * layer_bytes_;
  layer.values = layer.keys + shape_.kv_heads * layer.head_key_bytes();
  return layer;
}

}  // namespace quantd::cpu

// Keys and values as the attention kernels read them.
#ifndef QUANTD_KERNELS_CPU_KV_CACHE_H_
#define QUANTD_KERNELS_CPU_KV_CACHE_H_

#include <cstdint>

#include "core/buffer.h"
#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"

namespace quantd::cpu {

inline constexpr int kLargestHead = 1024;  // dimensions

// One layer's keys [kv_heads][capacity / 16][head_dim][16] and values [kv_heads][capacity][stride]:
// the scores of 16 keys need no horizontal sum, and a value row adds without a gather.
struct KvLayer {
  bool half = false;
  int head_dim = 0;
  int value_stride = 0;  // head_dim rounded up to 16
  int64_t capacity = 0;  // a multiple of 16
  std::byte* keys = nullptr;
  std::byte* values = nullptr;

  int element_bytes() const { return half ? 2 : 4; }
  int64_t head_key_bytes() const { return capacity * head_dim * element_bytes(); }
  int64_t head_value_bytes() const { return capacity * value_stride * element_bytes(); }
  const std::byte* head_keys(int head) const { return keys + head * head_key_bytes(); }
  const std::byte* head_values(int head) const { return values + head * head_value_bytes(); }
  // Stores the key and value [head_dim] of one position.
  void Store(const KernelTable& kernels, int head, int64_t position, const float* key,
             const float* value) const;
};

// f16 for Compute::kFast (relative rounding 2^-12, half the memory and half the reading), float32
// for kExact. All memory is reserved at once; the system gives pages as they are written.
class CpuKvCache : public KvCache {
 public:
  // INVALID_ARGUMENT for an impossible shape, RESOURCE_EXHAUSTED when memory does not suffice.
  static absl::StatusOr<std::unique_ptr<CpuKvCache>> Create(const KvShape& shape);

  const KvShape& shape() const override { return shape_; }
  uint64_t bytes() const override { return storage_.size(); }
  KvLayer layer(int index);

 private:
  CpuKvCache(const KvShape& shape, Buffer storage, const KvLayer& geometry, int64_t layer_bytes)
      : shape_(shape),
        storage_(std::move(storage)),
        geometry_(geometry),
        layer_bytes_(layer_bytes) {}

  KvShape shape_;
  Buffer storage_;
  KvLayer geometry_;
  int64_t layer_bytes_;
};

// The geometry of a layer of `tokens` positions, without memory.
KvLayer MakeKvLayer(bool half, int head_dim, int64_t tokens);

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_KV_CACHE_H_

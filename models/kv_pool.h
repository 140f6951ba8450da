// KV caches of a model: bounded in bytes, reserved whole when a sequence starts, recycled.
#ifndef QUANTD_MODELS_KV_POOL_H_
#define QUANTD_MODELS_KV_POOL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/status.h"
#include "kernels/backend.h"

namespace quantd {

// Used by the scheduler thread only, except for what says otherwise.
class KvPool {
 public:
  // `shape.capacity` is ignored. `limit_bytes` bounds what is held, recycled caches included; 0: no
  // limit. Measures bytes per token with a first cache, which it keeps for use.
  static absl::StatusOr<std::unique_ptr<KvPool>> Create(Backend& backend, const KvShape& shape,
                                                        uint64_t limit_bytes, int32_t max_idle);

  // A cache for at least `tokens` tokens, its content undefined. Null: not now, others hold the
  // memory. RESOURCE_EXHAUSTED with figures: never, or the system refused while nothing was held.
  absl::StatusOr<std::unique_ptr<KvCache>> Acquire(int32_t tokens);
  // Takes a cache back for reuse. Caches that may hold NaN are not to come back: Discard them.
  void Release(std::unique_ptr<KvCache> cache);
  void Discard(std::unique_ptr<KvCache> cache);

  // RESOURCE_EXHAUSTED with figures when `tokens` can never fit. Thread-safe.
  absl::Status CheckFits(int32_t tokens) const;
  uint64_t bytes_per_token() const { return bytes_per_token_; }
  uint64_t held_bytes() const { return held_bytes_.load(std::memory_order_relaxed); }
  // Of the held ones, those of caches that are acquired. Thread-safe, like the next.
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  // What `sequences` of `tokens` tokens would hold, but for the limit.
  uint64_t FullBytes(int32_t sequences, int32_t tokens) const;

 private:
  KvPool(Backend& backend, const KvShape& shape, uint64_t limit_bytes, int32_t max_idle)
      : backend_(backend), shape_(shape), limit_bytes_(limit_bytes), max_idle_(max_idle) {}
  std::unique_ptr<KvCache> TakeIdle(int32_t capacity);
  bool MakeRoom(uint64_t bytes);
  absl::StatusOr<std::unique_ptr<KvCache>> Allocate(int32_t capacity);

  Backend& backend_;
  const KvShape shape_;
  const uint64_t limit_bytes_;
  const int32_t max_idle_;
  uint64_t bytes_per_token_ = 0;
  int32_t in_use_ = 0;
  std::atomic<uint64_t> held_bytes_{0}, used_bytes_{0};
  std::vector<std::unique_ptr<KvCache>> idle_;
};

}  // namespace quantd

#endif  // QUANTD_MODELS_KV_POOL_H_

#include "models/kv_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace quantd {
namespace {

// Capacities are rounded so that caches fit later sequences of about the same length.
constexpr int32_t kGranule = 128;

int32_t RoundedCapacity(int32_t tokens) { return (tokens + kGranule - 1) / kGranule * kGranule; }

}  // namespace

absl::StatusOr<std::unique_ptr<KvPool>> KvPool::Create(Backend& backend, const KvShape& shape,
                                                       uint64_t limit_bytes, int32_t max_idle) {
  std::unique_ptr<KvPool> pool(new KvPool(backend, shape, limit_bytes, max_idle));
  ASSIGN_OR_RETURN(std::unique_ptr<KvCache> first, pool->Allocate(kGranule));
  pool->bytes_per_token_ = (first->bytes() + kGranule - 1) / kGranule;
  pool->idle_.push_back(std::move(first));
  RETURN_IF_ERROR(pool->CheckFits(1));
  return pool;
}

absl::Status KvPool::CheckFits(int32_t tokens) const {
  const uint64_t needed = bytes_per_token_ * static_cast<uint64_t>(RoundedCapacity(tokens));
  if (limit_bytes_ == 0 || needed <= limit_bytes_) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the KV cache of ", tokens, " tokens needs ", needed, " bytes, the memory limit leaves ",
      limit_bytes_, "; ask for fewer tokens or raise the limit"));
}

uint64_t KvPool::FullBytes(int32_t sequences, int32_t tokens) const {
  const uint64_t bytes = bytes_per_token_ * static_cast<uint64_t>(RoundedCapacity(tokens)) *
                         static_cast<uint64_t>(sequences);
  return limit_bytes_ == 0 ? bytes : std::min(bytes, limit_bytes_);
}

absl::StatusOr<std::unique_ptr<KvCache>> KvPool::Acquire(int32_t tokens) {
  RETURN_IF_ERROR(CheckFits(tokens));
  const int32_t capacity = RoundedCapacity(tokens);
  std::unique_ptr<KvCache> cache = TakeIdle(capacity);
  if (cache == nullptr) {
    if (!MakeRoom(bytes_per_token_ * static_cast<uint64_t>(capacity))) return nullptr;
    absl::StatusOr<std::unique_ptr<KvCache>> allocated = Allocate(capacity);
    // What others hold will come back; only with nothing in use waiting would be in vain.
    if (!allocated.ok() && in_use_ > 0) return nullptr;
    if (!allocated.ok()) return allocated.status();
    cache = std::move(*allocated);
  }
  ++in_use_;
  used_bytes_ += cache->bytes();
  return cache;
}

void KvPool::Release(std::unique_ptr<KvCache> cache) {
  if (static_cast<int32_t>(idle_.size()) >= max_idle_) return Discard(std::move(cache));
  --in_use_;
  used_bytes_ -= cache->bytes();
  idle_.push_back(std::move(cache));
}

void KvPool::Discard(std::unique_ptr<KvCache> cache) {
  --in_use_;
  used_bytes_ -= cache->bytes();
  held_bytes_ -= cache->bytes();
}

// The smallest idle cache that is large enough and not wastefully so.
std::unique_ptr<KvCache> KvPool::TakeIdle(int32_t capacity) {
  auto best = idle_.end();
  for (auto it = idle_.begin(); it != idle_.end(); ++it) {
    const int64_t has = (*it)->shape().capacity;
    if (has < capacity || has > 4 * int64_t{capacity}) continue;
    if (best == idle_.end() || has < (*best)->shape().capacity) best = it;
  }
  if (best == idle_.end()) return nullptr;
  std::unique_ptr<KvCache> cache = std::move(*best);
  idle_.erase(best);
  return cache;
}

// Frees idle caches until `bytes` more fit.
bool KvPool::MakeRoom(uint64_t bytes) {
  if (limit_bytes_ == 0) return true;
  while (held_bytes() + bytes > limit_bytes_ && !idle_.empty()) {
    held_bytes_ -= idle_.front()->bytes();
    idle_.erase(idle_.begin());
  }
  return held_bytes() + bytes <= limit_bytes_;
}

absl::StatusOr<std::unique_ptr<KvCache>> KvPool::Allocate(int32_t capacity) {
  KvShape shape = shape_;
  shape.capacity = capacity;
  ASSIGN_OR_RETURN(std::unique_ptr<KvCache> cache, backend_.CreateKvCache(shape));
  held_bytes_ += cache->bytes();
  return cache;
}

}  // namespace quantd

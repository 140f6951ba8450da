#include "kernels/cpu/arena.h"

#include <utility>

namespace quantd::cpu {
namespace {
constexpr size_t kChunk = size_t{32} << 20;
constexpr size_t kAlignment = 64;
}  // namespace

absl::StatusOr<ArenaSpan> Arena::Allocate(size_t bytes) {
  std::shared_ptr<Buffer> chunk = current_.lock();
  if (chunk != nullptr && bytes <= chunk->size() - used_) {
    ArenaSpan span{chunk, chunk->data() + used_, bytes};
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return span;
  }
  const bool own = bytes > kChunk / 2;
  ASSIGN_OR_RETURN(Buffer buffer, Buffer::Allocate(own ? bytes : kChunk));
  chunk = std::make_shared<Buffer>(std::move(buffer));
  ArenaSpan span{chunk, chunk->data(), bytes};
  if (!own) {
    current_ = chunk;
    used_ = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  return span;
}

}  // namespace quantd::cpu

// Memory for packed weights: one long run of huge pages for all small and middle-sized matrices.
#ifndef QUANTD_KERNELS_CPU_ARENA_H_
#define QUANTD_KERNELS_CPU_ARENA_H_

#include <memory>

#include "core/buffer.h"
#include "core/status.h"

namespace quantd::cpu {

// A piece of a chunk; the chunk lives as long as any of its pieces.
struct ArenaSpan {
  std::shared_ptr<Buffer> chunk;
  std::byte* data = nullptr;
  size_t size = 0;
};

// Cuts 64-byte-aligned, zeroed pieces from chunks of 32 MiB. Larger pieces get a chunk of their
// own. Nothing is reused before its whole chunk is free: weights are loaded and unloaded together.
class Arena {
 public:
  // RESOURCE_EXHAUSTED when the system refuses.
  absl::StatusOr<ArenaSpan> Allocate(size_t bytes);

 private:
  std::weak_ptr<Buffer> current_;
  size_t used_ = 0;
};

}  // namespace quantd::cpu

#endif  // QUANTD_KERNELS_CPU_ARENA_H_

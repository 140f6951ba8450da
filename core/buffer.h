// Large aligned allocations that ask for huge pages: the arena that packed weights live in.
#ifndef QUANTD_CORE_BUFFER_H_
#define QUANTD_CORE_BUFFER_H_

#include <cstddef>
#include <span>
#include <utility>

#include "core/status.h"

namespace quantd {

// Owns zeroed memory from mmap, aligned to 2 MiB where it is at least that large and to a page
// otherwise, with MADV_HUGEPAGE. Returned to the system at once when the buffer goes.
class Buffer {
 public:
  Buffer() = default;
  // RESOURCE_EXHAUSTED when the system refuses.
  static absl::StatusOr<Buffer> Allocate(size_t bytes);
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  std::span<std::byte> bytes() { return {data_, size_}; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_size_ = 0;
};

}  // namespace quantd

#endif  // QUANTD_CORE_BUFFER_H_

#include "core/float_buffer.h"

#include <sys/mman.h>

#include <new>

namespace quantd {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kLarge = 8 * kHugePage;  // the last, partly used page counts for little

std::align_val_t AlignmentOf(size_t bytes) {
  return std::align_val_t{bytes >= kLarge ? kHugePage : kLine};
}

}  // namespace

void* AllocateLines(size_t bytes) {
  void* memory = ::operator new(bytes, AlignmentOf(bytes));
  // A hint: without it the memory is as good, only slower to get.
  if (bytes >= kLarge) madvise(memory, bytes, MADV_HUGEPAGE);
  return memory;
}

void FreeLines(void* memory, size_t bytes) { ::operator delete(memory, AlignmentOf(bytes)); }

}  // namespace quantd

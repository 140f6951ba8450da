// Memory for large arrays of floats that are computed as a whole.
#ifndef QUANTD_CORE_FLOAT_BUFFER_H_
#define QUANTD_CORE_FLOAT_BUFFER_H_

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace quantd {

// Memory that begins with a cache line. Large pieces ask for huge pages, which the system maps and
// takes back hundreds of times faster than small ones.
void* AllocateLines(size_t bytes);
// `bytes` as they were asked for.
void FreeLines(void* memory, size_t bytes);

// Aligns to cache lines, and leaves what resize() adds as it is: zeros that are overwritten at once
// would be written for nothing.
template <class T>
class LineAllocator {
 public:
  using value_type = T;

  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}  // NOLINT(google-explicit-constructor)

  T* allocate(size_t count) { return static_cast<T*>(AllocateLines(count * sizeof(T))); }
  void deallocate(T* data, size_t count) { FreeLines(data, count * sizeof(T)); }
  template <class U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;
  }
  template <class U, class... Args>
  void construct(U* at, Args&&... args) {
    ::new (static_cast<void*>(at)) U(std::forward<Args>(args)...);
  }

  template <class U>
  bool operator==(const LineAllocator<U>&) const {
    return true;
  }
};

// resize(n) leaves new elements without a value; resize(n, 0.0f) gives them one.
using FloatBuffer = std::vector<float, LineAllocator<float>>;

}  // namespace quantd

#endif  // QUANTD_CORE_FLOAT_BUFFER_H_

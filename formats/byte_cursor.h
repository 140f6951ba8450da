// The only way to read bytes from outside: it cannot run past the end.
#ifndef QUANTD_FORMATS_BYTE_CURSOR_H_
#define QUANTD_FORMATS_BYTE_CURSOR_H_

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "core/status.h"

namespace quantd {

static_assert(std::endian::native == std::endian::little, "checkpoints are little-endian");

// A shrinking view of little-endian bytes. OUT_OF_RANGE when they do not suffice.
class ByteCursor {
 public:
  explicit ByteCursor(std::span<const std::byte> bytes) : rest_(bytes), size_(bytes.size()) {}

  size_t remaining() const { return rest_.size(); }
  size_t position() const { return size_ - rest_.size(); }

  absl::StatusOr<std::span<const std::byte>> Take(uint64_t count) {
    if (count > rest_.size()) {
      return absl::OutOfRangeError(
          absl::StrCat("need ", count, " bytes at byte ", position(), ", found ", rest_.size()));
    }
    const auto taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }

  // An integer or IEEE float; alignment does not matter.
  template <class T>
  absl::StatusOr<T> Read() {
    static_assert(std::is_arithmetic_v<T>);
    ASSIGN_OR_RETURN(const auto bytes, Take(sizeof(T)));
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  absl::StatusOr<absl::string_view> Text(uint64_t count) {
    ASSIGN_OR_RETURN(const auto bytes, Take(count));
    return absl::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }

 private:
  std::span<const std::byte> rest_;
  size_t size_;
};

// a * b and a + b in 64 bits unsigned; false when they do not fit.
[[nodiscard]] inline bool CheckedMultiply(uint64_t a, uint64_t b, uint64_t* product) {
  return !__builtin_mul_overflow(a, b, product);
}
[[nodiscard]] inline bool CheckedAdd(uint64_t a, uint64_t b, uint64_t* sum) {
  return !__builtin_add_overflow(a, b, sum);
}

}  // namespace quantd

#endif  // QUANTD_FORMATS_BYTE_CURSOR_H_

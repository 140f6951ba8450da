#include "core/float_buffer.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

namespace quantd {
namespace {

uintptr_t AddressOf(const FloatBuffer& buffer) {
  return reinterpret_cast<uintptr_t>(buffer.data());
}

TEST(FloatBuffer, BeginsWithACacheLineOrAHugePage) {
  for (const size_t size : {size_t{1}, size_t{1000}, size_t{1} << 20}) {
    EXPECT_EQ(AddressOf(FloatBuffer(size)) % 64, 0) << size;
  }
  EXPECT_EQ(AddressOf(FloatBuffer(size_t{5} << 20)) % (size_t{2} << 20), 0);
}

TEST(FloatBuffer, GrowsAndShrinksAcrossTheLimit) {
  FloatBuffer buffer(1000, 1.0f);
  buffer.resize(size_t{6} << 20, 2.0f);
  EXPECT_EQ(buffer[999], 1.0f);
  EXPECT_EQ(buffer[1000], 2.0f);
  EXPECT_EQ(buffer.back(), 2.0f);
  buffer.resize(10);
  buffer.shrink_to_fit();
  EXPECT_EQ(std::vector<float>(buffer.begin(), buffer.end()), std::vector<float>(10, 1.0f));
}

}  // namespace
}  // namespace quantd

#include "quantizers/codecs/bit_packing.h"

#include <gtest/gtest.h>

#include <string>

namespace quantd {
namespace {

std::vector<uint8_t> SomeCodes(int64_t count, int bits) {
  std::vector<uint8_t> codes(count);
  uint32_t state = 12345;
  for (uint8_t& code : codes) {
    state = state * 1664525u + 1013904223u;
    code = static_cast<uint8_t>(state >> 24) & ((1 << bits) - 1);
  }
  return codes;
}

TEST(BitPacking, UnpackingUndoesPacking) {
  for (const WordPacking packing :
       {WordPacking::kDense, WordPacking::kWholeCodes, WordPacking::kPlanar}) {
    for (int bits = 1; bits <= 8; ++bits) {
      for (const int64_t cols : {1, 31, 32, 33, 96}) {
        SCOPED_TRACE(testing::Message() << static_cast<int>(packing) << " " << bits << " " << cols);
        const std::vector<uint8_t> codes = SomeCodes(3 * cols, bits);
        const std::vector<uint32_t> words = PackWords(codes, 3, cols, bits, packing);
        ASSERT_EQ(static_cast<int64_t>(words.size()), 3 * WordsPerRow(cols, bits, packing));
        EXPECT_EQ(UnpackWords(words, 3, cols, bits, packing), codes);
      }
    }
  }
}

TEST(BitPacking, PlanesHoldTheLowBitsOfAllCodesFirst) {
  // A single code with all bits set: where its fields are says everything.
  const auto words_of = [](int bits, int code) {
    std::vector<uint8_t> codes(32);
    codes[code] = static_cast<uint8_t>((1 << bits) - 1);
    return PackWords(codes, 1, 32, bits, WordPacking::kPlanar);
  };
  using Words = std::vector<uint32_t>;
  EXPECT_EQ(words_of(3, 17), (Words{0, 3u << 2, 1u << 17}));
  EXPECT_EQ(words_of(5, 9), (Words{0, 15u << 4, 0, 0, 1u << 9}));
  EXPECT_EQ(words_of(6, 31), (Words{0, 0, 0, 15u << 28, 0, 3u << 30}));
  EXPECT_EQ(words_of(7, 0), (Words{15, 0, 0, 0, 3, 0, 1}));
}

}  // namespace
}  // namespace quantd

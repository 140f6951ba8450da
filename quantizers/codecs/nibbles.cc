#include "quantizers/codecs/nibbles.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/parallel.h"

namespace quantd {
namespace {

constexpr int64_t kSlice = 1 << 16;         // bytes of one parallel piece
constexpr double kSecondsPerSlice = 20e-6;  // about

}  // namespace

void PackPairs(const uint8_t* codes, int64_t count, NibbleOrder order, uint8_t* bytes) {
  // Two codes at a time as one number, which vectorizes.
  const int first_shift = order == NibbleOrder::kHighFirst ? 4 : 0;
  const int second_shift = 4 - first_shift;
  for (int64_t i = 0; i < count; ++i) {
    uint16_t pair;
    std::memcpy(&pair, codes + 2 * i, sizeof(pair));
    if constexpr (std::endian::native == std::endian::big) {
      pair = static_cast<uint16_t>(pair >> 8 | pair << 8);
    }
    bytes[i] = static_cast<uint8_t>((pair << first_shift) | (pair >> 8 << second_shift));
  }
}

std::vector<std::byte> PackNibbles(std::span<const uint8_t> codes, NibbleOrder order,
                                   uint8_t padding) {
  const int64_t pairs = static_cast<int64_t>(codes.size() / 2);
  const int first_shift = order == NibbleOrder::kHighFirst ? 4 : 0;
  std::vector<std::byte> bytes((codes.size() + 1) / 2);
  const auto pack = [&](int64_t slice) {
    const int64_t begin = slice * kSlice, count = std::min(kSlice, pairs - begin);
    PackPairs(codes.data() + 2 * begin, count, order,
              reinterpret_cast<uint8_t*>(bytes.data()) + begin);
  };
  ParallelFor((pairs + kSlice - 1) / kSlice, pack, kSecondsPerSlice);
  if (codes.size() % 2 != 0) {
    bytes.back() =
        static_cast<std::byte>((codes.back() << first_shift) | (padding << (4 - first_shift)));
  }
  return bytes;
}

std::vector<uint8_t> UnpackNibbles(std::span<const std::byte> bytes, int64_t count,
                                   NibbleOrder order) {
  const int first_shift = order == NibbleOrder::kHighFirst ? 4 : 0;
  std::vector<uint8_t> codes(static_cast<size_t>(count));
  const int64_t pairs = count / 2;
  ParallelFor((pairs + kSlice - 1) / kSlice, [&](int64_t slice) {
    const int64_t end = std::min((slice + 1) * kSlice, pairs);
    for (int64_t i = slice * kSlice; i < end; ++i) {
      const uint8_t byte = static_cast<uint8_t>(bytes[i]);
      codes[2 * i] = (byte >> first_shift) & 15;
      codes[2 * i + 1] = (byte >> (4 - first_shift)) & 15;
    }
  });
  if (count % 2 != 0) codes.back() = (static_cast<uint8_t>(bytes[pairs]) >> first_shift) & 15;
  return codes;
}

}  // namespace quantd
